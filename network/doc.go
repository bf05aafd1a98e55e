// Package network gives a network namespace its interface, address, route,
// published ports and name files.
//
// A Manager is one engine's networks; it is only a path, so opening it costs
// nothing. Everything it knows stands in files below its state directory, and
// everything it makes in the kernel carries a name that begins with "viv":
//
//	<state>/network/<bridge>/
//	    bridge.json                 subnet, gateway, MTU; written once
//	    setup.lock                  shared: attach, detach; exclusive: set up, tear down
//	    ports.lock                  held while ports are published or withdrawn
//	    next                        where the search for a free address begins
//	    addresses/10.112.0.2        a symlink whose text is the container's ID
//	    ports/0.0.0.0:8080-tcp      a symlink: container's ID / address:port
//	    endpoints/<container>.json  what Attach returned
//
// A lease is a symlink because symlink(2) is exclusive and brings its content
// with it: no crash can leave a lease without an owner.
//
// In the kernel there are, for each bridge: the bridge, one veth pair a
// container (its host side is named after the address, viv0a700002 for
// 10.112.0.2), and one nftables table of family ip with the bridge's name. Two
// engines share none of these.
//
// # Order, and what a crash leaves
//
// Attach makes lease, port records, port map elements, veth pair, endpoint
// record, in this order, and Detach goes back the same way. So whatever exists
// in the kernel has a record, and Sweep can tell from the records alone what
// belongs to nobody.
//
// # Forwarding
//
// A published port is one element of an nftables map: the destination of a new
// connection to an address of the host is looked up once. No process stands in
// the way. Connections from the host's own 127.0.0.1 work too: the bridge has
// route_localnet set, and the table drops what would misuse it.
//
// net.ipv4.ip_forward is set when it is 0, and left on, because others may
// have come to rely on it. Nothing but the traffic of our bridge is filtered.
// A base chain of ours cannot undo a drop in somebody else's table: where
// Docker or a firewall gave its forward chain the policy drop, containers have
// no way out until that firewall accepts the bridge. Manager.Warnings finds
// such chains and says which command lets the bridge through.
//
// # IPv6
//
// The bridge network is IPv4 only. Interfaces keep their link-local IPv6
// addresses; the bridge ignores router advertisements, since a container must
// not be able to change the host's routes (CVE-2020-13401). Publishing on an
// IPv6 address is refused.
package network
