#!/bin/bash
# A control plane and one real node (containerd, runc, kubelet, kube-proxy) in namespaces of their own: network,
# mounts, processes, cgroups. tests/node/machine.py starts it. Everything in it ends with its first process, and that
# one ends when its standard input does. A second node has a network, mounts and cgroups of its own inside of these,
# and a cable to the first.
#
#   S             folder for all state          GROUP   name of its cgroups
#   TOOLS         folders of the binaries       IMAGES  archives to load
#   NODES         1 or 2
set -euo pipefail
: "${S:?}" "${GROUP:?}" "${TOOLS:?}" "${IMAGES:?}" "${NODES:?}"
CONTROLLERS="cpu cpuacct cpuset memory devices freezer blkio pids systemd"
export PATH="$TOOLS:/usr/sbin:/usr/bin:/sbin:/bin"

if [ "$1" = --enter ]; then                                        # -- process 1 in there: into the cgroups, then their namespace
  for c in $CONTROLLERS; do echo 0 > "/sys/fs/cgroup/$c/$GROUP/cgroup.procs"; done
  exec unshare --cgroup "$0" --boot
fi

if [ "$1" = --enter-b ]; then                                      # -- the second node: the same, one cgroup further down
  for c in $CONTROLLERS; do echo 0 > "/sys/fs/cgroup/$c/node-b/cgroup.procs"; done
  exec unshare --cgroup "$0" --boot-b
fi

# -- what a machine has when it has booted
own() { # mounts that each node has for itself
  mount --make-rprivate /; mount -t sysfs sysfs /sys; mount -t tmpfs tmpfs /run
  mount -t tmpfs tmpfs /sys/fs/cgroup
  for c in $CONTROLLERS; do
    mkdir /sys/fs/cgroup/$c; o=$c; [ $c = systemd ] && o=none,name=systemd
    mount -t cgroup -o $o cgroup /sys/fs/cgroup/$c
  done
  mkdir /sys/fs/cgroup/cpu/plane; echo 0 > /sys/fs/cgroup/cpu/plane/cgroup.procs; echo 2048 > /sys/fs/cgroup/cpu/plane/cpu.shares    # as system.slice: pods have their share beside all of it
  mkdir -p "$D"/{kubelet,containerd,cni,pods} "$S"/{logs,etcd} /run/netns /run/containerd
  for d in /var/log/containers /var/lib/cni /var/lib/kubelet; do mkdir -p $d; mount -t tmpfs tmpfs $d; done   # paths that no setting moves
  ip link set lo up
}
configure() { # files of the node $N at $NODE, whose pods are in $PODS
cat > "$D/cni/10-bridge.conflist" <<J
{"cniVersion": "1.0.0", "name": "pods", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false, "hairpinMode": true,
   "ipam": {"type": "host-local", "dataDir": "/run/cni", "ranges": [[{"subnet": "$PODS"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
J
cat > "$D/containerd.toml" <<J
version = 3
root = "$D/containerd"
state = "/run/containerd"
oom_score = 0
[plugins.'io.containerd.internal.v1.opt']
  path = "$D/containerd/opt"
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins.'io.containerd.cri.v1.images']
  snapshotter = "overlayfs"
  [plugins.'io.containerd.cri.v1.images'.pinned_images]
    sandbox = "localhost/pause:1"
[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true   # without CAP_SYS_RESOURCE nobody can lower oom_score_adj: runc would end with "can't get final child's PID"
[plugins.'io.containerd.cri.v1.runtime'.cni]
  bin_dirs = ["/usr/lib/cni"]
  conf_dir = "$D/cni"
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
  [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
    BinaryName = "/usr/sbin/runc"
    SystemdCgroup = false
J
cat > "$D/kubelet.yaml" <<J
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
failCgroupV1: false
cgroupDriver: cgroupfs
failSwapOn: false
oomScoreAdj: 0
protectKernelDefaults: true
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
address: $NODE
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
clusterDomain: cluster.local
clusterDNS: [172.16.0.10]
resolvConf: $S/resolv.conf
podLogsDir: $D/pods
volumePluginDir: $D/kubelet/plugins
serializeImagePulls: false
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
evictionHard: {memory.available: 100Mi, nodefs.available: 1%, imagefs.available: 1%, nodefs.inodesFree: 1%}
nodeStatusUpdateFrequency: 5s
J
cat > "$D/proxy.yaml" <<J
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
hostnameOverride: $N
bindAddress: $NODE
clientConnection: {kubeconfig: $D/proxy.kubeconfig}
clusterCIDR: 10.44.0.0/16
oomScoreAdj: 0
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
J

}
run() { local n=$1; shift; "$@" > "$S/logs/$n$suffix.log" 2>&1 & echo $! > "$D/$n.pid"; }
until_() { local n=0; until "${@}" > /dev/null 2>&1; do n=$((n+1)); [ $n -lt 600 ] || { echo "never: $*" >&2; exit 1; }; sleep 0.1; done; }
kubeconfig() { # USER TOKEN
  printf '%s\n' "{apiVersion: v1, kind: Config, current-context: c, contexts: [{name: c, context: {cluster: c, user: u}}]," \
    "clusters: [{name: c, cluster: {server: 'https://$FIRST:6443', certificate-authority: $S/certs/apiserver.crt}}], users: [{name: u, user: {token: $1}}]}"
}
pull() { # containerd, and the images
  run containerd containerd --config "$D/containerd.toml"
  ( until_ test -S /run/containerd/containerd.sock
    for i in $IMAGES; do ctr images import --local --snapshotter overlayfs "$i"; done ) > "$S/logs/import$suffix.log" 2>&1 & import=$!
}
join() {
  wait $import
  run kubelet kubelet --config="$D/kubelet.yaml" --kubeconfig="$D/kubelet.kubeconfig" --root-dir="$D/kubelet" --cert-dir="$D/kubelet/pki" \
    --hostname-override=$N --node-ip=$NODE --v=2
  run kube-proxy kube-proxy --config="$D/proxy.yaml"
}
FIRST=10.43.0.1 SECOND=10.43.0.2                                   # the nodes' own addresses
export CONTAINERD_ADDRESS=/run/containerd/containerd.sock CONTAINERD_NAMESPACE=k8s.io

if [ "$1" = --boot-b ]; then
  exec < /dev/null
  D=$S/b N=node-b NODE=$SECOND PODS=10.44.1.0/24 suffix=-b
  own; mount --make-rshared /
  until_ ip link show eth0                                         # the other end plugs it in
  ip addr add $NODE/24 dev eth0; ip link set eth0 up
  ip route add 10.44.0.0/24 via $FIRST; ip route add 172.16.0.0/12 via $FIRST
  sysctl -qw net.ipv4.ip_forward=1 net.bridge.bridge-nf-call-iptables=1
  configure; pull
  until_ test -e "$S/api-ready"
  join
  wait
  exit
fi

D=$S N=node-a NODE=$FIRST PODS=10.44.0.0/24 suffix=
exec 3<&0 < /dev/null
mount --make-rprivate /; mount -t proc proc /proc
own
# The kubelet sets kernel parameters of the whole machine: show it files that have its values already.
mkdir -p "$S/sysctl"
for kv in vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1 kernel/keys/root_maxkeys=1000000 kernel/keys/root_maxbytes=25000000; do
  f=$S/sysctl/$(basename "${kv%=*}"); echo "${kv#*=}" > "$f"; mount --bind "$f" "/proc/sys/${kv%=*}"
done
mount --make-rshared /
ip link add node0 type bridge; ip link set node0 address 0a:58:0a:2b:00:01; ip addr add $NODE/24 dev node0; ip link set node0 up  # this kernel has no dummy device
for i in $(seq 10 253); do ip addr add 10.43.0.$i/32 dev node0; done  # asking.py's
ip route add 172.16.0.0/12 dev node0                               # Services: kube-proxy rewrites before anything goes out
sysctl -qw net.ipv4.ip_forward=1 net.bridge.bridge-nf-call-iptables=1
echo "nameserver $NODE" > "$S/resolv.conf"                         # upstream of the pods with dnsPolicy Default
if [ "$NODES" = 2 ]; then
  mkdir -p "$S/b"
  for c in $CONTROLLERS; do mkdir "/sys/fs/cgroup/$c/node-b"; done
  for f in cpuset.cpus cpuset.mems; do cat "/sys/fs/cgroup/cpuset/$f" > "/sys/fs/cgroup/cpuset/node-b/$f"; done
  unshare --net --mount "$0" --enter-b > "$S/logs/node-b.log" 2>&1 & b=$!
  until_ sh -c "test \"\$(readlink /proc/$b/ns/net)\" != \"\$(readlink /proc/self/ns/net)\""
  ip link add to-b type veth peer name eth0 netns $b
  ip link set to-b master node0; ip link set to-b up
  ip route add 10.44.1.0/24 via $SECOND
fi
configure
cat > "$S/upstream.corefile" <<J
.:53 {
    bind $NODE
    template IN A example.com {
        answer "{{ .Name }} 60 IN A 192.0.2.80"
    }
    template ANY ANY . {
        rcode NXDOMAIN
    }
}
J
secret() { openssl rand -hex 16; }
A=$(secret) KA=$(secret) KB=$(secret) P=$(secret); umask 077
printf '%s\n' "$A,admin,admin,system:masters" "$KA,system:node:node-a,node-a,system:nodes" "$KB,system:node:node-b,node-b,system:nodes" \
  "$P,system:kube-proxy,proxy" > "$S/tokens.csv"
kubeconfig $A > "$S/kubeconfig"; kubeconfig $KA > "$S/kubelet.kubeconfig"; kubeconfig $P > "$S/proxy.kubeconfig"
if [ "$NODES" = 2 ]; then kubeconfig $KB > "$S/b/kubelet.kubeconfig"; kubeconfig $P > "$S/b/proxy.kubeconfig"; fi
umask 022
export KUBECONFIG=$S/kubeconfig

run upstream coredns -conf "$S/upstream.corefile"
pull
run etcd etcd --name=n --data-dir="$S/etcd" --unsafe-no-fsync --log-level=warn
run kube-apiserver kube-apiserver --etcd-servers=http://127.0.0.1:2379 --secure-port=6443 --bind-address=$NODE --advertise-address=$NODE \
  --cert-dir="$S/certs" --token-auth-file="$S/tokens.csv" --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction \
  --service-cluster-ip-range=172.16.0.0/12 --service-account-issuer=https://kubernetes.default.svc --kubelet-preferred-address-types=InternalIP \
  --service-account-key-file="$S/certs/apiserver.key" --service-account-signing-key-file="$S/certs/apiserver.key"
until_ kubectl get --raw /readyz
run kube-controller-manager kube-controller-manager --kubeconfig="$S/kubeconfig" --leader-elect=false --secure-port=0 \
  --service-account-private-key-file="$S/certs/apiserver.key" --root-ca-file="$S/certs/apiserver.crt" --flex-volume-plugin-dir="$S/kubelet/plugins"
run kube-scheduler kube-scheduler --kubeconfig="$S/kubeconfig" --leader-elect=false --secure-port=0
kubectl create clusterrolebinding kube-proxy --clusterrole=system:node-proxier --user=system:kube-proxy
touch "$S/api-ready"
join
until_ kubectl wait --for=condition=Ready node/node-a --timeout=1s
[ "$NODES" = 1 ] || until_ kubectl wait --for=condition=Ready node/node-b --timeout=1s
touch "$S/ready"
while read -r _ <&3; do :; done                                      # until the other end is gone; bash reaps
