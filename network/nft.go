package network

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// rulesetVersion changes with the rules below; a table of another version is
// replaced, in one transaction, with its published ports.
const rulesetVersion = 1

// Names in the table.
const (
	publishedAt  = "published_at"  // address . protocol . port : address . port
	publishedAny = "published_any" // protocol . port : address . port
)

// maxElements bounds the elements of one transaction: a message's attributes
// are at most 64 KiB long, and all messages must fit into the socket's buffer.
const maxElements = 400

// tableExists asks for the bridge's table. It is asked at every attach, since
// `nft flush ruleset` and restarts of firewalls remove tables of others.
func tableExists(name string) (bool, error) {
	filter, err := dial(unix.NETLINK_NETFILTER)
	if err != nil {
		return false, err
	}
	defer filter.closeLater()
	b := new(batch)
	b.begin(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_GETTABLE, 0)
	b.buf = append(b.buf, unix.NFPROTO_IPV4, unix.NFNETLINK_V0, 0, 0)
	b.attrString(unix.NFTA_TABLE_NAME, name)
	b.end()
	_, err = filter.get(b)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for nftables table %s: %w", name, err)
	}
	return true, nil
}

// ruleset is the table of one bridge, for the nftables library.
type ruleset struct {
	conn  *nftables.Conn
	table *nftables.Table
	at    *nftables.Set
	any   *nftables.Set
}

// newRuleset opens a socket; its user calls close.
func newRuleset(name string) (*ruleset, error) {
	protocolPort, err := nftables.ConcatSetType(nftables.TypeInetProto, nftables.TypeInetService)
	if err != nil {
		return nil, err
	}
	addressPort, err := nftables.ConcatSetType(nftables.TypeIPAddr, nftables.TypeInetService)
	if err != nil {
		return nil, err
	}
	addressProtocolPort, err := nftables.ConcatSetType(nftables.TypeIPAddr, nftables.TypeInetProto, nftables.TypeInetService)
	if err != nil {
		return nil, err
	}
	conn, err := nftables.New(nftables.AsLasting())
	if err != nil {
		return nil, fmt.Errorf("open nftables: %w", err)
	}
	table := &nftables.Table{Family: nftables.TableFamilyIPv4, Name: name}
	// A set's ID is only for the transaction. The library would count one up for
	// all connections of the process, without a lock.
	return &ruleset{
		conn:  conn,
		table: table,
		at:    &nftables.Set{ID: 1, Table: table, Name: publishedAt, IsMap: true, Concatenation: true, KeyType: addressProtocolPort, DataType: addressPort},
		any:   &nftables.Set{ID: 2, Table: table, Name: publishedAny, IsMap: true, Concatenation: true, KeyType: protocolPort, DataType: addressPort},
	}, nil
}

// replaceTable puts the bridge's table in place, with every published port
// that is on record, in one transaction; more elements than fit follow.
//
//	table ip viv0 {
//	    map published_at  { type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; }
//	    map published_any { type inet_proto . inet_service : ipv4_addr . inet_service; }
//	    chain guard { type filter hook prerouting priority raw;
//	        iifname "viv0" ip saddr 127.0.0.0/8 drop
//	        iifname "viv0" ip daddr 127.0.0.0/8 drop }
//	    chain published {
//	        dnat ip to ip daddr . meta l4proto . th dport map @published_at
//	        dnat ip to meta l4proto . th dport map @published_any }
//	    chain prerouting { type nat hook prerouting priority dstnat;
//	        ip daddr != 127.0.0.0/8 fib daddr type local jump published }
//	    chain output { type nat hook output priority dstnat;
//	        fib daddr type local jump published }
//	    chain postrouting { type nat hook postrouting priority srcnat;
//	        ip saddr 10.112.0.0/16 oifname != "viv0" masquerade
//	        ip saddr 127.0.0.0/8 oifname "viv0" masquerade
//	        ip saddr 10.112.0.0/16 oifname "viv0" ct status dnat masquerade }
//	    chain forward { type filter hook forward priority filter;
//	        oifname "viv0" ct state established,related accept
//	        oifname "viv0" ct status dnat accept
//	        iifname "viv0" accept
//	        oifname "viv0" drop }
//	}
func (b *bridge) replaceTable(ctx context.Context, config *bridgeConfig) error {
	lock, err := flock(ctx, b.path("ports.lock"), unix.LOCK_EX)
	if err != nil {
		return err
	}
	defer lock.Close()
	published, err := b.publications()
	if err != nil {
		return err
	}
	r, err := newRuleset(b.name)
	if err != nil {
		return err
	}
	defer r.close()
	r.conn.AddTable(r.table)
	r.conn.DelTable(r.table) // of what was there before, if anything
	r.conn.AddTable(r.table)
	for _, set := range []*nftables.Set{r.at, r.any} {
		if err := r.conn.AddSet(set, nil); err != nil {
			return fmt.Errorf("make nftables map %s: %w", set.Name, err)
		}
	}
	r.addGuard()
	r.addPublished()
	r.addPostrouting(config.Subnet)
	r.addForward()
	if err := r.conn.Flush(); err != nil {
		return fmt.Errorf("write nftables table %s: %w%s", b.name, err, privilegeHint(err))
	}
	return r.addElements(published)
}

// close returns at once, for the reason at conn.closeLater.
func (r *ruleset) close() { go func() { _ = r.conn.CloseLasting() }() }

func (r *ruleset) chain(name string, kind nftables.ChainType, hook *nftables.ChainHook, priority *nftables.ChainPriority) *nftables.Chain {
	return r.conn.AddChain(&nftables.Chain{Name: name, Table: r.table, Type: kind, Hooknum: hook, Priority: priority})
}

func (r *ruleset) rule(chain *nftables.Chain, parts ...[]expr.Any) {
	rule := &nftables.Rule{Table: r.table, Chain: chain}
	for _, part := range parts {
		rule.Exprs = append(rule.Exprs, part...)
	}
	r.conn.AddRule(rule)
}

// addGuard keeps route_localnet from opening the host's 127.0.0.1 to
// containers (CVE-2020-8558). Answers to connections from 127.0.0.1 pass: they
// are addressed to the gateway until conntrack translates them back, later.
func (r *ruleset) addGuard() {
	guard := r.chain("guard", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, nftables.ChainPriorityRaw)
	r.rule(guard, r.iif(expr.CmpOpEq), source(expr.CmpOpEq, loopback), verdict(expr.VerdictDrop))
	r.rule(guard, r.iif(expr.CmpOpEq), destination(expr.CmpOpEq, loopback), verdict(expr.VerdictDrop))
}

// addPublished sends new connections to published ports on to the containers.
// Packets from elsewhere to 127.0.0.0/8 are left alone, so that the kernel
// drops them as martians: a neighbour must not reach a port that is published
// on 127.0.0.1 only.
func (r *ruleset) addPublished() {
	published := r.conn.AddChain(&nftables.Chain{Name: "published", Table: r.table})
	addressOffset := &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 16, Len: 4}
	r.rule(published, []expr.Any{
		addressOffset,
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 9}, // the second quarter of register 1
		&expr.Payload{DestRegister: 10, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
	}, r.translate(r.at))
	r.rule(published, []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Payload{DestRegister: 9, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
	}, r.translate(r.any))
	prerouting := r.chain("prerouting", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, nftables.ChainPriorityNATDest)
	r.rule(prerouting, destination(expr.CmpOpNeq, loopback), destinationIsLocal(), jump("published"))
	output := r.chain("output", nftables.ChainTypeNAT, nftables.ChainHookOutput, nftables.ChainPriorityNATDest)
	r.rule(output, destinationIsLocal(), jump("published"))
}

// translate looks up the concatenation that begins in register 1 and makes
// what it finds, address and port, the new destination.
func (r *ruleset) translate(set *nftables.Set) []expr.Any {
	return []expr.Any{
		&expr.Lookup{SourceRegister: 1, SetName: set.Name, SetID: set.ID, DestRegister: 1, IsDestRegSet: true},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: 1, RegProtoMin: 9, Specified: true},
	}
}

// addPostrouting gives packets the host's address where the answer would not
// find back otherwise: to the outside, from the host's 127.0.0.1, and from a
// container to a port that it or its neighbour publishes (the neighbour would
// answer directly, from an address that was not asked).
func (r *ruleset) addPostrouting(subnet netip.Prefix) {
	chain := r.chain("postrouting", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource)
	masquerade := []expr.Any{&expr.Masq{}}
	r.rule(chain, source(expr.CmpOpEq, subnet), r.oif(expr.CmpOpNeq), masquerade)
	r.rule(chain, source(expr.CmpOpEq, loopback), r.oif(expr.CmpOpEq), masquerade)
	r.rule(chain, source(expr.CmpOpEq, subnet), r.oif(expr.CmpOpEq), translated(), masquerade)
}

// addForward lets out everything and lets in what was asked for: answers and
// published ports. A host in the neighbourhood that routes to the subnet by us
// does not reach ports that are not published.
func (r *ruleset) addForward() {
	chain := r.chain("forward", nftables.ChainTypeFilter, nftables.ChainHookForward, nftables.ChainPriorityFilter)
	answers := conntrack(expr.CtKeySTATE, expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED)
	r.rule(chain, r.oif(expr.CmpOpEq), answers, verdict(expr.VerdictAccept))
	r.rule(chain, r.oif(expr.CmpOpEq), translated(), verdict(expr.VerdictAccept))
	r.rule(chain, r.iif(expr.CmpOpEq), verdict(expr.VerdictAccept))
	r.rule(chain, r.oif(expr.CmpOpEq), verdict(expr.VerdictDrop))
}

var loopback = netip.PrefixFrom(netip.AddrFrom4([4]byte{127}), 8)

func (r *ruleset) iif(op expr.CmpOp) []expr.Any { return r.interfaceIs(expr.MetaKeyIIFNAME, op) }
func (r *ruleset) oif(op expr.CmpOp) []expr.Any { return r.interfaceIs(expr.MetaKeyOIFNAME, op) }

func (r *ruleset) interfaceIs(key expr.MetaKey, op expr.CmpOp) []expr.Any {
	name := make([]byte, unix.IFNAMSIZ)
	copy(name, r.table.Name) // the table has the bridge's name
	return []expr.Any{
		&expr.Meta{Key: key, Register: 1},
		&expr.Cmp{Op: op, Register: 1, Data: name},
	}
}

// Offsets in the IPv4 header.
func source(op expr.CmpOp, prefix netip.Prefix) []expr.Any      { return addressIn(12, op, prefix) }
func destination(op expr.CmpOp, prefix netip.Prefix) []expr.Any { return addressIn(16, op, prefix) }

func addressIn(offset uint32, op expr.CmpOp, prefix netip.Prefix) []expr.Any {
	base := prefix.Masked().Addr().As4()
	mask := binary.BigEndian.AppendUint32(nil, ^uint32(0)<<(32-prefix.Bits()))
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: mask, Xor: make([]byte, 4)},
		&expr.Cmp{Op: op, Register: 1, Data: base[:]},
	}
}

func destinationIsLocal() []expr.Any {
	return []expr.Any{
		&expr.Fib{Register: 1, FlagDADDR: true, ResultADDRTYPE: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)},
	}
}

// ipsDstNAT is IPS_DST_NAT of <linux/netfilter/nf_conntrack_common.h>.
const ipsDstNAT = 1 << 5

func translated() []expr.Any { return conntrack(expr.CtKeySTATUS, ipsDstNAT) }

func conntrack(key expr.CtKey, bits uint32) []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: key, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(bits), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
	}
}

func verdict(kind expr.VerdictKind) []expr.Any { return []expr.Any{&expr.Verdict{Kind: kind}} }
func jump(chain string) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: chain}}
}

// element gives the map that a published port belongs to, and its element.
// Each part of a concatenation is padded to four bytes.
func (r *ruleset) element(p publication) (*nftables.Set, nftables.SetElement) {
	var key []byte
	set := r.any
	if !p.at.Addr().IsUnspecified() {
		set = r.at
		address := p.at.Addr().As4()
		key = append(key, address[:]...)
	}
	key = append(key, p.protocol.number(), 0, 0, 0)
	key = binary.BigEndian.AppendUint16(key, p.at.Port())
	key = append(key, 0, 0)
	target := p.target.Addr().As4()
	value := binary.BigEndian.AppendUint16(target[:], p.target.Port())
	return set, nftables.SetElement{Key: key, Val: append(value, 0, 0)}
}

// publicationOf reads an element back; the container is not known to it.
func (r *ruleset) publicationOf(set *nftables.Set, element nftables.SetElement) (publication, error) {
	key, value := element.Key, element.Val
	address := netip.IPv4Unspecified()
	if set.Name == publishedAt && len(key) == 12 {
		address, key = netip.AddrFrom4([4]byte(key[:4])), key[4:]
	}
	if len(key) != 8 || len(value) != 8 {
		return publication{}, fmt.Errorf("read nftables map %s: element %x : %x", set.Name, element.Key, element.Val)
	}
	return publication{
		protocol: protocolOf(key[0]),
		at:       netip.AddrPortFrom(address, binary.BigEndian.Uint16(key[4:])),
		target:   netip.AddrPortFrom(netip.AddrFrom4([4]byte(value[:4])), binary.BigEndian.Uint16(value[4:])),
	}, nil
}

// addElements publishes ports, at most maxElements in each transaction.
func (r *ruleset) addElements(list []publication) error {
	return r.changeElements(list, "publish", r.conn.SetAddElements)
}

// deleteElements withdraws ports. Those that are not there are no error: then
// each is deleted by itself, for a transaction is all or nothing.
func (r *ruleset) deleteElements(list []publication) error {
	err := r.changeElements(list, "withdraw", r.conn.SetDeleteElements)
	if !errors.Is(err, unix.ENOENT) {
		return err
	}
	for i := range list {
		err := r.changeElements(list[i:i+1], "withdraw", r.conn.SetDeleteElements)
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return err
		}
	}
	return nil
}

func (r *ruleset) changeElements(list []publication, verb string, change func(*nftables.Set, []nftables.SetElement) error) error {
	for len(list) > 0 {
		some := list[:min(len(list), maxElements)]
		list = list[len(some):]
		elements := map[*nftables.Set][]nftables.SetElement{}
		for _, p := range some {
			set, element := r.element(p)
			elements[set] = append(elements[set], element)
		}
		for set, group := range elements {
			if err := change(set, group); err != nil {
				return fmt.Errorf("%s ports: %w", verb, err)
			}
		}
		if err := r.conn.Flush(); err != nil {
			return fmt.Errorf("%s %d ports in nftables table %s: %w", verb, len(some), r.table.Name, err)
		}
	}
	return nil
}

// elements lists what the kernel's maps hold.
func (r *ruleset) elements() ([]publication, error) {
	var list []publication
	for _, set := range []*nftables.Set{r.at, r.any} {
		elements, err := r.conn.GetSetElements(set)
		if err != nil {
			return nil, fmt.Errorf("list nftables map %s: %w", set.Name, err)
		}
		for _, element := range elements {
			p, err := r.publicationOf(set, element)
			if err != nil {
				return nil, err
			}
			list = append(list, p)
		}
	}
	return list, nil
}

// deleteTable removes the table with everything in it; that it is not there is
// no error.
func deleteTable(name string) error {
	r, err := newRuleset(name)
	if err != nil {
		return err
	}
	defer r.close()
	r.conn.DelTable(r.table)
	if err := r.conn.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("delete nftables table %s: %w", name, err)
	}
	return nil
}
