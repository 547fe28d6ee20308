"""Headwater on a real node: kubelet, containerd, runc and kube-proxy, under a real control plane.

`machine` starts and ends the node, `asking` puts questions to a Service in there and says what
became of each, `ground` installs things on it, and `test_rollouts` breaks them. `make node` runs
one to play with.
"""
