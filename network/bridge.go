package network

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// bridgeConfig is bridge.json: what was decided when the bridge was made first.
type bridgeConfig struct {
	Name    string       `json:"name"`
	Subnet  netip.Prefix `json:"subnet"`
	Gateway netip.Addr   `json:"gateway"`
	MTU     int          `json:"mtu"`
	// Ruleset is the rulesetVersion of the nftables table.
	Ruleset int `json:"ruleset"`
	// ForwardingEnabled tells that we set net.ipv4.ip_forward, which was 0.
	ForwardingEnabled bool `json:"forwardingEnabled"`
}

const (
	defaultMTU = 1500
	forwarding = "/proc/sys/net/ipv4/ip_forward"
)

// pools are the subnets to choose from. They keep clear of what others take by
// default: Docker's 172.17-172.23 and 192.168.0-, Podman's 10.88 and 10.89,
// Kubernetes' 10.96/12 and 10.244, libvirt's 192.168.122.
func pools() []netip.Prefix {
	var list []netip.Prefix
	for second := 112; second <= 127; second++ {
		list = append(list, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(second), 0, 0}), 16))
	}
	for second := 24; second <= 31; second++ {
		list = append(list, netip.PrefixFrom(netip.AddrFrom4([4]byte{172, byte(second), 0, 0}), 16))
	}
	for third := 128; third <= 240; third += 16 {
		list = append(list, netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 168, byte(third), 0}), 20))
	}
	return list
}

// poolsFor rotates the pools of all engines but the default one, so that
// engines that set up their bridges at once seldom try the same.
func poolsFor(name string) []netip.Prefix {
	list := pools()
	if name == "viv0" {
		return list
	}
	sum := sha256.Sum256([]byte(name))
	start := int(binary.BigEndian.Uint32(sum[:])) % len(list)
	return append(list[start:len(list):len(list)], list[:start]...)
}

// ready gives the bridge's configuration and interface index with the set-up
// lock shared, after making the bridge if need be. The usual case costs a
// lock, three ioctls and two reads; the returned lock is to be closed.
func (b *bridge) ready(ctx context.Context) (*bridgeConfig, int, *os.File, error) {
	for range 3 {
		lock, err := flock(ctx, b.path("setup.lock"), unix.LOCK_SH)
		if errors.Is(err, fs.ErrNotExist) {
			if err := b.makeDirs(); err != nil {
				return nil, 0, nil, err
			}
			continue
		}
		if err != nil {
			return nil, 0, nil, err
		}
		config, index, err := b.inspectLocked()
		if err == nil {
			return config, index, lock, nil
		}
		_ = lock.Close()
		if err := b.setUp(ctx); err != nil {
			return nil, 0, nil, fmt.Errorf("set up bridge %s: %w", b.name, err)
		}
	}
	return nil, 0, nil, fmt.Errorf("set up bridge %s: it is removed again as soon as it is made", b.name)
}

func (b *bridge) makeDirs() error {
	for _, name := range []string{"addresses", "ports", "endpoints"} {
		if err := os.MkdirAll(b.path(name), 0o700); err != nil {
			return fmt.Errorf("make network state directory: %w", err)
		}
	}
	return nil
}

// inspectLocked gives an error if anything of the bridge is missing. The
// caller holds the set-up lock, shared or not.
func (b *bridge) inspectLocked() (*bridgeConfig, int, error) {
	config, err := b.readConfig()
	if err != nil {
		return nil, 0, err
	}
	if config.Ruleset != rulesetVersion {
		return nil, 0, errors.New("ruleset of another version")
	}
	if text, err := os.ReadFile(forwarding); err != nil || string(text) == "0\n" {
		return nil, 0, errors.New("forwarding is off")
	}
	index, up, err := linkStatus(b.name)
	if err != nil || !up {
		return nil, 0, fmt.Errorf("bridge is not up: %w", err)
	}
	if address, err := linkAddress(b.name); err != nil || address != config.Gateway {
		return nil, 0, fmt.Errorf("bridge has not its address: %w", err)
	}
	if exists, err := tableExists(b.name); err != nil || !exists {
		return nil, 0, fmt.Errorf("no nftables table: %w", err)
	}
	return config, index, nil
}

func (b *bridge) readConfig() (*bridgeConfig, error) {
	text, err := os.ReadFile(b.path("bridge.json"))
	if err != nil {
		return nil, err
	}
	config := new(bridgeConfig)
	if err := json.Unmarshal(text, config); err != nil {
		return nil, fmt.Errorf("read %s: %w", b.path("bridge.json"), err)
	}
	if config.Name != b.name || !config.Subnet.Addr().Is4() || !config.Subnet.Contains(config.Gateway) {
		return nil, fmt.Errorf("read %s: it does not describe bridge %s", b.path("bridge.json"), b.name)
	}
	return config, nil
}

func (b *bridge) writeConfig(config *bridgeConfig) error {
	text, err := json.MarshalIndent(config, "", "  ")
	if err != nil {
		return err
	}
	return writeFile(b.path("bridge.json"), append(text, '\n'))
}

// setUp makes whatever of the bridge is missing. The link goes up last: an
// interface that is up, with its table, is a bridge that was finished.
func (b *bridge) setUp(ctx context.Context) error {
	if err := b.makeDirs(); err != nil {
		return err
	}
	lock, err := flock(ctx, b.path("setup.lock"), unix.LOCK_EX)
	if err != nil {
		return err
	}
	defer lock.Close()
	if _, _, err := b.inspectLocked(); err == nil {
		return nil // somebody was faster
	}
	config, err := b.readConfig()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	host, err := dial(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer host.close()
	config, err = b.makeLink(host, config)
	if err != nil {
		return err
	}
	if err := b.writeSysctls(config); err != nil {
		return err
	}
	config.Ruleset = rulesetVersion
	if err := b.writeConfig(config); err != nil {
		return err
	}
	if err := b.replaceTable(ctx, config); err != nil {
		return err
	}
	return setLinkUp(host, b.name)
}

// makeLink creates the bridge interface if it is missing and gives it its
// address. config is nil when no subnet was ever chosen.
func (b *bridge) makeLink(host *conn, config *bridgeConfig) (*bridgeConfig, error) {
	index, _, err := linkStatus(b.name)
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return nil, err
	}
	created := err != nil
	if created {
		if index, err = createBridge(host, b.name, defaultMTU); err != nil {
			return nil, err
		}
	}
	if err := b.guard(); err != nil {
		return nil, err
	}
	if config == nil {
		config, err = b.chooseSubnet(host, index)
	} else {
		err = b.keepSubnet(host, index, config)
	}
	if err != nil && created {
		err = errors.Join(err, deleteLink(host, index))
	}
	if err != nil {
		return nil, err
	}
	// A fixed hardware address: without it a bridge takes the lowest of its
	// ports', so that it changes as containers come and go.
	return config, setLinkAddress(host, index, derivedMAC(config.Gateway))
}

// keepSubnet puts back the address of a subnet that was chosen before.
func (b *bridge) keepSubnet(host *conn, index int, config *bridgeConfig) error {
	other, err := overlapping(host, index, config.Subnet)
	if err != nil {
		return err
	}
	if other != "" {
		return fmt.Errorf("subnet %s, used by this engine before, overlaps with %s; remove that, or stop the containers and delete %s", config.Subnet, other, b.path())
	}
	return addAddress(host, index, config.Gateway, config.Subnet.Bits())
}

// chooseSubnet takes the first pool that nothing on the host overlaps with.
// Engines of which none knows the other may choose at once; so each adds its
// address first and looks afterwards. Whoever comes second sees the first; if
// both see each other, both go on to their next pool.
func (b *bridge) chooseSubnet(host *conn, index int) (*bridgeConfig, error) {
	var last string
	candidates := poolsFor(b.name)
	if current, err := linkAddress(b.name); err == nil {
		// The bridge is older than our records, which somebody removed.
		for _, subnet := range candidates {
			if subnet.Contains(current) {
				candidates = []netip.Prefix{subnet}
			}
		}
	}
	for _, subnet := range candidates {
		config := &bridgeConfig{Name: b.name, Subnet: subnet, Gateway: subnet.Addr().Next(), MTU: defaultMTU}
		var err error
		if last, err = overlapping(host, index, subnet); err != nil {
			return nil, err
		}
		if last != "" {
			continue
		}
		if err := addAddress(host, index, config.Gateway, subnet.Bits()); err != nil {
			return nil, err
		}
		if last, err = overlapping(host, index, subnet); err != nil {
			return nil, err
		}
		if last == "" {
			return config, nil
		}
		if err := removeAddress(host, index, config.Gateway, subnet.Bits()); err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("choose a subnet: each of %d pools overlaps with something of this host, the last with its %s", len(candidates), last)
}

// guard writes the switches of the bridge that must stand before it goes up.
func (b *bridge) guard() error {
	// A container can send router advertisements; the host must not believe
	// them (CVE-2020-13401). The file is missing where IPv6 is disabled.
	err := writeSysctl("/proc/sys/net/ipv6/conf/"+b.name+"/accept_ra", "0")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	// Without this the kernel drops a packet from 127.0.0.1 that leaves by
	// the bridge, which is what a connection to a port published on 127.0.0.1
	// is. The table's chain "guard" keeps it from being misused.
	return writeSysctl("/proc/sys/net/ipv4/conf/"+b.name+"/route_localnet", "1")
}

func (b *bridge) writeSysctls(config *bridgeConfig) error {
	text, err := os.ReadFile(forwarding)
	if err != nil {
		return fmt.Errorf("read whether the host forwards: %w", err)
	}
	if strings.TrimSpace(string(text)) != "0" {
		return nil
	}
	config.ForwardingEnabled = true
	return writeSysctl(forwarding, "1")
}

func writeSysctl(path, value string) error {
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("write sysctl: %w", err)
	}
	_, err = file.WriteString(value)
	if err = errors.Join(err, file.Close()); err != nil {
		return fmt.Errorf("write %s to sysctl %s: %w", value, path, err)
	}
	return nil
}

// derivedMAC is the hardware address of whoever has an IPv4 address: locally
// administered, "vi" and the address. An address that is used again keeps its
// hardware address, so that no ARP cache is ever wrong about it.
func derivedMAC(address netip.Addr) net.HardwareAddr {
	bytes := address.As4()
	return append(net.HardwareAddr{'v', 'i'}, bytes[:]...)
}
