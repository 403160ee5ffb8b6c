# The network between the nodes of a cluster on one machine. Sourced by cluster.sh, which sets CLUSTER.
#
# Where it is allowed (root, `ip netns`), each node has a network namespace, and a namespace more is the router between them
# and to the host, which so keeps its own rules and settings. A cut is a rule of the router that throws packets away by where
# they come from and go to: who sends them is told nothing. Elsewhere nodes have addresses of the loopback device, and nothing
# can be cut.

# Clusters under other directories have other names, as short as names of devices must be.
NETWORK="ms-$(realpath -m "$CLUSTER" | sha256sum | cut -c 1-8)"
ROUTER="$NETWORK-router"
# What the addresses of all nodes begin with, and why nothing can be cut, if so.
PREFIX=
NO_CUTS=

host() { printf '%s%d' "$PREFIX" "$1"; }

# Takes a subnet that nobody on this machine uses, of those that are for tests of networks (RFC 2544), for the host's device.
network_subnet() {
  local number try subnet
  for ((try = 0; try < 512; try++)); do
    number=$(((16#${NETWORK#ms-} + try) % 512))
    subnet="198.$((18 + number / 256)).$((number % 256))"
    [[ -z "$(ip -4 route show root "$subnet.0/24" && ip -4 route show match "$subnet.0/24" | grep -v '^default')" ]] || continue
    ip addr add "$subnet.253" peer "$subnet.254" dev "$NETWORK" || return 1
    # Fails when another cluster has just taken it.
    if ip route add "$subnet.0/24" via "$subnet.254" src "$subnet.253" 2>/dev/null; then
      ip -n "$ROUTER" addr add "$subnet.254" peer "$subnet.253" dev outside || return 1
      PREFIX="$subnet.1"
      return
    fi
    ip addr del "$subnet.253" peer "$subnet.254" dev "$NETWORK"
  done
  echo "no subnet is free" >&2
  return 1
}

network_of_node() {
  local name="$NETWORK-$1" router="${PREFIX%1}254"
  ip netns add "$name" &&
    ip -n "$name" link set lo up &&
    ip -n "$name" link add eth0 type veth peer name "node$1" netns "$ROUTER" &&
    ip -n "$name" addr add "$(host "$1")" peer "$router" dev eth0 &&
    ip -n "$name" link set eth0 up &&
    ip -n "$name" route add default via "$router" &&
    ip -n "$ROUTER" addr add "$router" peer "$(host "$1")" dev "node$1" &&
    ip -n "$ROUTER" link set "node$1" up
}

# Makes namespaces for $1 nodes. Returns 1, having said why, where that is not possible.
network_namespaces() {
  local node
  [[ $EUID -eq 0 ]] || { echo "this is not root" >&2 && return 1; }
  { command -v ip && command -v nsenter; } >/dev/null || { echo "there is no ip or no nsenter" >&2 && return 1; }
  ip netns add "$ROUTER" &&
    nsenter "--net=/run/netns/$ROUTER" sh -c 'echo 1 >/proc/sys/net/ipv4/ip_forward' &&
    ip link add "$NETWORK" type veth peer name outside netns "$ROUTER" &&
    ip link set "$NETWORK" up &&
    ip -n "$ROUTER" link set outside up &&
    network_subnet || return 1
  for ((node = 1; node <= $1; node++)); do network_of_node "$node" || return 1; done
  # Not every kernel has such rules.
  rule add 1 0 && rule del 1 0
}

# Makes the network of $1 nodes: namespaces, or, where they cannot be had or $2 forbids them, nothing. What a run that was killed
# has left under these names is removed.
network_up() {
  network_down
  if [[ -n ${2:-} ]]; then
    NO_CUTS="$2"
  elif ! network_namespaces "$1" 2>"$CLUSTER/network"; then
    NO_CUTS="$(tail -1 "$CLUSTER/network")"
    network_down
  fi
  [[ -z $NO_CUTS ]] || PREFIX=127.0.0.1
  printf '%s\n' "$PREFIX" "$NO_CUTS" >"$CLUSTER/network"
}

# What network_up has found.
network_load() { { read -r PREFIX && read -r NO_CUTS; } <"$CLUSTER/network"; }

# Removes what there is of the network, be it complete or not.
network_down() {
  local name
  command -v ip >/dev/null || return 0
  ip link del "$NETWORK" 2>/dev/null || true
  ip netns list | awk '{ print $1 }' | while read -r name; do
    [[ $name != "$NETWORK"-* ]] || ip netns del "$name"
  done
}

# The rule of the router, to `add` or `del` ($1), that drops what node $2 sends to node $3.
rule() { ip -n "$ROUTER" rule "$1" from "$(host "$2")" to "$(host "$3")" pref 10 blackhole; }
# True when the router would pass a packet from node $1 to node $2.
node_flows() { ip -n "$ROUTER" route get "$(host "$2")" from "$(host "$1")" iif "node$1" >/dev/null 2>&1; }

can_cut() { [[ -z $NO_CUTS ]] || die "nothing can be cut between nodes without network namespaces: $NO_CUTS"; }

# Drops what node $1 sends to node $2.
network_cut() {
  ! node_flows "$1" "$2" || rule add "$1" "$2"
  ! node_flows "$1" "$2" || die "packets still go from node $1 to node $2"
}

network_heal() {
  while ip -n "$ROUTER" rule del pref 10 2>/dev/null; do :; done
}
