package network

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

// From <linux/netfilter/nfnetlink_conntrack.h> and, the filter's bits, the
// kernel's net/netfilter/nf_internals.h.
const (
	ipctnlDelete = 2 // IPCTNL_MSG_CT_DELETE

	ctaTupleOrig  = 1
	ctaTupleReply = 2
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
// This needs Linux 5.8, for a filter in the deletion; where it is missing such
// a client has to pause for the 30 s after which the kernel forgets by itself.
// That is why errors are not returned.
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
	deleteFlows(b)
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
	deleteFlows(b)
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

func deleteFlows(b *batch) {
	if b.count == 0 {
		return
	}
	filter, err := dial(unix.NETLINK_NETFILTER)
	if err != nil {
		return
	}
	defer filter.closeLater()
	_, _ = filter.execute(b)
}
