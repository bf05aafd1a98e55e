package network

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// From <linux/netfilter/nfnetlink_conntrack.h> and, the filter's bits, the
// kernel's net/netfilter/nf_internals.h.
const (
	ipctnlGet    = 1 // IPCTNL_MSG_CT_GET
	ipctnlDelete = 2 // IPCTNL_MSG_CT_DELETE

	ctaTupleOrig  = 1
	ctaTupleReply = 2
	ctaID         = 12
	ctaFilter     = 25

	ctaTupleIP     = 1
	ctaTupleProto  = 2
	ctaIPv4Src     = 1
	ctaIPv4Dst     = 2
	ctaProtoNum    = 1
	ctaProtoDstPrt = 3

	ctaFilterOrigFlags  = 1
	ctaFilterReplyFlags = 2

	filterIPSrc        = 1 << 0
	filterIPDst        = 1 << 1
	filterProtoNum     = 1 << 3
	filterProtoDstPort = 1 << 5
)

// forgetOldFlows makes the kernel's connection tracking forget what clients
// sent to UDP ports before these were published. A translation is decided by
// a flow's first packet; a client that goes on sending from the same port
// would otherwise never reach the container. TCP decides anew with each SYN.
//
// Where that fails such a client has to pause for the 30 s after which the kernel
// forgets by itself. That is why errors are not returned.
func forgetOldFlows(published []publication) {
	b := new(batch)
	for _, p := range published {
		if p.protocol != UDP {
			continue
		}
		b.beginConntrackDelete()
		flags := uint32(filterProtoNum | filterProtoDstPort)
		tuple := b.nest(ctaTupleOrig | unix.NLA_F_NESTED)
		if !p.at.Addr().IsUnspecified() {
			flags |= filterIPDst
			b.conntrackAddress(ctaIPv4Dst, p.at.Addr())
		}
		protocol := b.nest(ctaTupleProto | unix.NLA_F_NESTED)
		b.attr(ctaProtoNum, []byte{p.protocol.number()})
		b.attr(ctaProtoDstPrt, binary.BigEndian.AppendUint16(nil, p.at.Port()))
		b.endNest(protocol)
		b.endNest(tuple)
		b.conntrackFilter(ctaFilterOrigFlags, flags)
		b.end()
	}
	deleteFlows(b, func(f *flow) bool {
		return slices.ContainsFunc(published, func(p publication) bool {
			return p.protocol == UDP && f.protocol == UDP.number() && f.port == p.at.Port() &&
				(p.at.Addr().IsUnspecified() || f.destination == p.at.Addr())
		})
	})
}

// forgetFlowsTo makes connection tracking forget the flows that were sent on
// to a container which is gone: a client that uses its source port again must
// not be sent to an address that may be somebody else's.
func forgetFlowsTo(container netip.Addr) {
	b := new(batch)
	b.beginConntrackDelete()
	tuple := b.nest(ctaTupleReply | unix.NLA_F_NESTED)
	b.conntrackAddress(ctaIPv4Src, container)
	b.endNest(tuple)
	b.conntrackFilter(ctaFilterReplyFlags, filterIPSrc)
	b.end()
	deleteFlows(b, func(f *flow) bool { return f.answers == container })
}

func (b *batch) beginConntrackDelete() {
	b.begin(unix.NFNL_SUBSYS_CTNETLINK<<8|ipctnlDelete, ack)
	b.buf = append(b.buf, unix.AF_INET, unix.NFNETLINK_V0, 0, 0)
}

func (b *batch) conntrackAddress(kind uint16, address netip.Addr) {
	bytes := address.As4()
	nest := b.nest(ctaTupleIP | unix.NLA_F_NESTED)
	b.attr(kind, bytes[:])
	b.endNest(nest)
}

func (b *batch) conntrackFilter(kind uint16, flags uint32) {
	nest := b.nest(ctaFilter | unix.NLA_F_NESTED)
	b.attrUint32(kind, flags)
	b.endNest(nest)
}

// deleteFlows executes deletions with filters. A kernel that has none (until 6.8)
// takes them for incomplete; then all flows are listed, and those that match deleted.
func deleteFlows(b *batch, match func(*flow) bool) {
	if b.count == 0 {
		return
	}
	filter, err := dial(unix.NETLINK_NETFILTER)
	if err != nil {
		return
	}
	defer filter.closeLater()
	results, err := filter.execute(b)
	if err != nil || !slices.ContainsFunc(results, func(err error) bool { return err != nil }) {
		return
	}
	flows, err := listFlows(filter, match)
	if err != nil {
		return
	}
	for _, f := range flows {
		one := new(batch)
		one.beginConntrackDelete()
		one.attr(ctaTupleOrig|unix.NLA_F_NESTED, f.tuple)
		one.attr(ctaID, f.id) // not one that took its place meanwhile
		one.end()
		if _, err := filter.execute(one); err != nil {
			return
		}
	}
}

// flow is what connection tracking knows of a connection: the tuple of its first
// packet, as the kernel wrote it, and who answers.
type flow struct {
	tuple, id   []byte
	destination netip.Addr
	protocol    uint8
	port        uint16
	answers     netip.Addr
}

func listFlows(filter *conn, match func(*flow) bool) ([]*flow, error) {
	b := new(batch)
	b.begin(unix.NFNL_SUBSYS_CTNETLINK<<8|ipctnlGet, unix.NLM_F_DUMP)
	b.buf = append(b.buf, unix.AF_INET, unix.NFNETLINK_V0, 0, 0)
	b.end()
	var list []*flow
	err := filter.dump(b, func(body []byte) error {
		if f := parseFlow(body); f != nil && match(f) {
			list = append(list, f)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list tracked connections: %w", err)
	}
	return list, nil
}

// parseFlow reads a struct nfgenmsg and the attributes behind it; nil for what is
// not complete.
func parseFlow(body []byte) *flow {
	const header = 4
	if len(body) < header {
		return nil
	}
	f := new(flow)
	eachAttr(body[header:], func(kind uint16, data []byte) {
		switch kind {
		case ctaID:
			f.id = slices.Clone(data)
		case ctaTupleOrig:
			f.tuple = slices.Clone(data)
			_, f.destination, f.protocol, f.port = parseTuple(data)
		case ctaTupleReply:
			f.answers, _, _, _ = parseTuple(data)
		}
	})
	if f.tuple == nil || f.id == nil {
		return nil
	}
	return f
}

func parseTuple(tuple []byte) (source, destination netip.Addr, protocol uint8, port uint16) {
	eachAttr(tuple, func(kind uint16, data []byte) {
		switch kind {
		case ctaTupleIP:
			eachAttr(data, func(kind uint16, address []byte) {
				switch kind {
				case ctaIPv4Src:
					source, _ = netip.AddrFromSlice(address)
				case ctaIPv4Dst:
					destination, _ = netip.AddrFromSlice(address)
				}
			})
		case ctaTupleProto:
			eachAttr(data, func(kind uint16, value []byte) {
				switch {
				case kind == ctaProtoNum && len(value) == 1:
					protocol = value[0]
				case kind == ctaProtoDstPrt && len(value) == 2:
					port = binary.BigEndian.Uint16(value)
				}
			})
		}
	})
	return source, destination, protocol, port
}
