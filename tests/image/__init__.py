"""The image that deploy/Dockerfile makes."""
