package network

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Protocol is a transport that ports belong to.
type Protocol string

// The protocols of published ports.
const (
	TCP  Protocol = "tcp"
	UDP  Protocol = "udp"
	SCTP Protocol = "sctp"
)

func (p Protocol) number() byte {
	switch p {
	case UDP:
		return unix.IPPROTO_UDP
	case SCTP:
		return unix.IPPROTO_SCTP
	}
	return unix.IPPROTO_TCP
}

func protocolOf(number byte) Protocol {
	switch number {
	case unix.IPPROTO_UDP:
		return UDP
	case unix.IPPROTO_SCTP:
		return SCTP
	}
	return TCP
}

// PortMapping asks for one port of the container to be published.
type PortMapping struct {
	// HostIP is an address of the host; the zero value means all of them.
	HostIP netip.Addr `json:"hostIP"`
	// HostPort is 0 for a port that the kernel chooses.
	HostPort uint16 `json:"hostPort"`
	// HostPortEnd, if it is not 0, makes a range from HostPort: any free port
	// of it will do.
	HostPortEnd   uint16   `json:"hostPortEnd,omitempty"`
	ContainerPort uint16   `json:"containerPort"`
	Protocol      Protocol `json:"protocol"`
}

// String is the mapping in the words of -p.
func (m PortMapping) String() string {
	text := ""
	if m.HostIP.IsValid() {
		text = m.HostIP.String() + ":"
		if m.HostIP.Is6() {
			text = "[" + m.HostIP.String() + "]:"
		}
	}
	switch {
	case m.HostPortEnd != 0:
		text += fmt.Sprintf("%d-%d:", m.HostPort, m.HostPortEnd)
	case m.HostPort != 0:
		text += fmt.Sprintf("%d:", m.HostPort)
	case text != "":
		text += ":"
	}
	return text + fmt.Sprintf("%d/%s", m.ContainerPort, m.Protocol)
}

// check refuses what the bridge network cannot publish.
func (m PortMapping) check() error {
	switch {
	case m.Protocol != TCP && m.Protocol != UDP && m.Protocol != SCTP:
		return fmt.Errorf("publish %s: invalid proto: %s", m, m.Protocol)
	case m.ContainerPort == 0:
		return fmt.Errorf("publish %s: invalid containerPort: 0", m)
	case m.HostPortEnd != 0 && m.HostPortEnd < m.HostPort:
		return fmt.Errorf("publish %s: invalid hostPort: the range ends before it begins", m)
	case m.HostIP.IsValid() && !m.HostIP.Is4():
		return fmt.Errorf("publish %s: the bridge network is IPv4 only; give an IPv4 host address", m)
	}
	return nil
}

// ParsePort reads the argument of -p:
//
//	[[hostIP:][hostPort[-end]]:]containerPort[-end][/tcp|udp|sctp]
//
// An IPv6 hostIP may stand in brackets. Ranges are expanded to one mapping a
// container port. A range of host ports for a single container port means any
// of them. The grammar and the first words of errors are those of Docker
// (github.com/docker/go-connections, package nat).
func ParsePort(spec string) ([]PortMapping, error) {
	hostIP, hostPorts, containerPorts := splitPort(spec)
	containerPorts, protocol, hasProtocol := strings.Cut(containerPorts, "/")
	if containerPorts == "" {
		return nil, fmt.Errorf("no port specified: %s<empty>", spec)
	}
	if !hasProtocol || protocol == "" {
		protocol = string(TCP)
	}
	mapping := PortMapping{Protocol: Protocol(strings.ToLower(protocol))}
	if mapping.Protocol != TCP && mapping.Protocol != UDP && mapping.Protocol != SCTP {
		return nil, fmt.Errorf("invalid proto: %s", protocol)
	}
	var err error
	if mapping.HostIP, err = parseHostIP(hostIP); err != nil {
		return nil, err
	}
	first, last, ok := parseRange(containerPorts)
	if !ok || first == 0 {
		return nil, fmt.Errorf("invalid containerPort: %s", containerPorts)
	}
	hostFirst, hostLast := uint16(0), uint16(0)
	if hostPorts != "" {
		if hostFirst, hostLast, ok = parseRange(hostPorts); !ok || hostFirst == 0 && hostLast != 0 {
			return nil, fmt.Errorf("invalid hostPort: %s", hostPorts)
		}
		if last-first != hostLast-hostFirst {
			if first != last {
				return nil, fmt.Errorf("invalid ranges specified for container and host Ports: %s and %s", containerPorts, hostPorts)
			}
			mapping.HostPortEnd = hostLast
		}
	}
	list := make([]PortMapping, 0, int(last-first)+1)
	for offset := 0; offset <= int(last-first); offset++ {
		mapping.ContainerPort = first + uint16(offset)
		if hostFirst != 0 {
			mapping.HostPort = hostFirst + uint16(offset)
		}
		list = append(list, mapping)
	}
	return list, nil
}

// splitPort cuts at the last two colons; an IPv6 address keeps its own.
func splitPort(spec string) (hostIP, hostPorts, containerPorts string) {
	rest, containerPorts, found := cutLast(spec)
	if !found {
		return "", "", spec
	}
	hostIP, hostPorts, found = cutLast(rest)
	if !found {
		return "", rest, containerPorts
	}
	return hostIP, hostPorts, containerPorts
}

func cutLast(text string) (before, after string, found bool) {
	at := strings.LastIndexByte(text, ':')
	if at < 0 {
		return text, "", false
	}
	return text[:at], text[at+1:], true
}

func parseHostIP(text string) (netip.Addr, error) {
	if text == "" {
		return netip.Addr{}, nil
	}
	bare := text
	if strings.HasPrefix(text, "[") && strings.HasSuffix(text, "]") {
		bare = text[1 : len(text)-1]
	}
	address, err := netip.ParseAddr(bare)
	if err != nil || address.Zone() != "" {
		return netip.Addr{}, fmt.Errorf("invalid IP address: %s", text)
	}
	return address.Unmap(), nil
}

// parseRange reads "80" or "80-90".
func parseRange(text string) (first, last uint16, ok bool) {
	begin, end, isRange := strings.Cut(text, "-")
	if first, ok = parseNumber(begin); !ok {
		return 0, 0, false
	}
	if !isRange {
		return first, first, true
	}
	last, ok = parseNumber(end)
	return first, last, ok && first <= last
}

func parseNumber(text string) (uint16, bool) {
	number, err := strconv.ParseUint(text, 10, 16)
	return uint16(number), err == nil
}

// ParseMAC reads the argument of --mac-address.
func ParseMAC(text string) (net.HardwareAddr, error) {
	mac, err := net.ParseMAC(text)
	if err != nil || len(mac) != 6 {
		return nil, fmt.Errorf("invalid MAC address %q: want six bytes as 02:42:ac:11:00:02", text)
	}
	if mac[0]&1 != 0 {
		return nil, fmt.Errorf("invalid MAC address %q: it is a group's, the lowest bit of its first byte is set", text)
	}
	return mac, nil
}
