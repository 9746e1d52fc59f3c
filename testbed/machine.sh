#!/bin/sh
# Runs as the first process of a machine, in its own mount, PID, network, UTS and IPC namespaces.
# Makes its view of the computer and becomes `pause`; when that ends, all of the machine ends.
# $1 the machine's folder, $2 its name, $3 the program pause, $4 the folder of claims.
set -eu
folder=$1 name=$2 pause=$3 claims=$4
# This mount namespace began as a copy; what is mounted for testbeds is not to be held by it.
for mounted in "$claims"/*.net; do
    if [ -f "$mounted" ]; then umount "$mounted" 2>/dev/null || true; fi
done
mount -t proc proc /proc
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/netns /run/lock
mkdir -p "$folder/log" "$folder/etc/upper" "$folder/etc/work" "$folder/var/upper" "$folder/var/work"
# What a machine writes into /etc and /var stays its own.
mount -t overlay overlay -o "lowerdir=/etc,upperdir=$folder/etc/upper,workdir=$folder/etc/work" /etc
mount -t overlay overlay -o "lowerdir=/var/lib,upperdir=$folder/var/upper,workdir=$folder/var/work" /var/lib
# containerd's layers can't lie on an overlay; the kubelet shares its mounts with pods.
mkdir -p "$folder/containerd" "$folder/kubelet" /var/lib/containerd /var/lib/kubelet
mount --bind "$folder/containerd" /var/lib/containerd
mount --bind "$folder/kubelet" /var/lib/kubelet
mount --make-rshared /var/lib/kubelet
mount --bind "$folder/log" /var/log
mount --bind "$folder/size/meminfo" /proc/meminfo
mount --bind "$folder/size/cpuinfo" /proc/cpuinfo
mount --bind "$folder/size/cpu" /sys/devices/system/cpu
mount --bind "$folder/size/node" /sys/devices/system/node
echo 1 >/proc/sys/net/ipv4/ip_forward
# A host's name has 64 characters at most; a node's may have more.
printf %.63s "$name" >/proc/sys/kernel/hostname
touch "$folder/ready"
exec "$pause"
