package network

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"strconv"
)

// lease gives the container an address of the subnet: the wanted one, or if
// that is the zero value the next free one.
//
// No lock is held. The search begins where the last one ended, so that an
// address is used again as late as possible: neighbours may still have the old
// owner in their ARP caches. Starts at once meet only those that run in the
// same instant, since each moves the beginning on for the others.
func (b *bridge) lease(config *bridgeConfig, containerID string, wanted netip.Addr) (netip.Addr, error) {
	if wanted.IsValid() {
		return b.leaseFixed(config, containerID, wanted)
	}
	first, last := hostRange(config.Subnet)
	size := last - first + 1
	next := first
	if text, err := os.ReadFile(b.path("next")); err == nil {
		if offset, err := strconv.ParseUint(string(text), 10, 32); err == nil {
			next = first + uint32(offset)%size
		}
	}
	var taken map[string]bool
	for tried := uint32(0); tried < size; tried++ {
		address := addrFrom(first + (next-first+tried)%size)
		if address == config.Gateway || taken[address.String()] {
			continue
		}
		err := os.Symlink(containerID, b.path("addresses", address.String()))
		if err == nil {
			b.remember(fromAddr(address) - first + 1)
			return address, nil
		}
		if !errors.Is(err, fs.ErrExist) {
			return netip.Addr{}, fmt.Errorf("lease %s: %w", address, err)
		}
		if tried == 64 {
			// A long stretch is full: one listing is cheaper than trying each.
			if taken, err = b.leased(); err != nil {
				return netip.Addr{}, err
			}
		}
	}
	return netip.Addr{}, fmt.Errorf("lease an address of %s: %w", config.Subnet, ErrNoAddress)
}

// remember is a hint for speed: losing it costs a longer search. The number is
// written over the old one, both ten digits wide, so that nobody reads it empty.
func (b *bridge) remember(offset uint32) {
	file, err := os.OpenFile(b.path("next"), os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return
	}
	defer file.Close()
	_, _ = fmt.Fprintf(file, "%010d", offset)
}

func (b *bridge) leaseFixed(config *bridgeConfig, containerID string, wanted netip.Addr) (netip.Addr, error) {
	first, last := hostRange(config.Subnet)
	if !config.Subnet.Contains(wanted) || fromAddr(wanted) < first || fromAddr(wanted) > last {
		return netip.Addr{}, fmt.Errorf("lease %s: not a host address of the bridge's subnet %s", wanted, config.Subnet)
	}
	if wanted == config.Gateway {
		return netip.Addr{}, fmt.Errorf("lease %s: %w: it is the gateway", wanted, ErrAddressAllocated)
	}
	err := os.Symlink(containerID, b.path("addresses", wanted.String()))
	if errors.Is(err, fs.ErrExist) {
		owner, _ := os.Readlink(b.path("addresses", wanted.String()))
		return netip.Addr{}, fmt.Errorf("lease %s: %w by container %s", wanted, ErrAddressAllocated, owner)
	}
	if err != nil {
		return netip.Addr{}, fmt.Errorf("lease %s: %w", wanted, err)
	}
	return wanted, nil
}

// release gives an address back if the container still has it.
func (b *bridge) release(containerID string, address netip.Addr) error {
	path := b.path("addresses", address.String())
	owner, err := os.Readlink(path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && owner != containerID {
		return nil
	}
	if err == nil {
		err = os.Remove(path)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("release %s: %w", address, err)
	}
	return nil
}

// leased gives the names of all leases.
func (b *bridge) leased() (map[string]bool, error) {
	names, err := readNames(b.path("addresses"))
	if err != nil {
		return nil, fmt.Errorf("list leases: %w", err)
	}
	taken := make(map[string]bool, len(names))
	for _, name := range names {
		taken[name] = true
	}
	return taken, nil
}

// leases gives the owner of every leased address.
func (b *bridge) leases() (map[netip.Addr]string, error) {
	names, err := readNames(b.path("addresses"))
	if err != nil {
		return nil, fmt.Errorf("list leases: %w", err)
	}
	owners := make(map[netip.Addr]string, len(names))
	for _, name := range names {
		address, err := netip.ParseAddr(name)
		if err != nil {
			continue
		}
		if owner, err := os.Readlink(b.path("addresses", name)); err == nil {
			owners[address] = owner
		}
	}
	return owners, nil
}

// readNames lists a directory, unsorted; one that is missing is empty.
func readNames(path string) ([]string, error) {
	dir, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	return dir.Readdirnames(-1)
}

// hostRange gives the first and last address of a subnet that a host may have.
func hostRange(subnet netip.Prefix) (first, last uint32) {
	base := fromAddr(subnet.Masked().Addr())
	return base + 1, base + (1<<(32-subnet.Bits()) - 1) - 1
}

func fromAddr(address netip.Addr) uint32 {
	bytes := address.As4()
	return binary.BigEndian.Uint32(bytes[:])
}

func addrFrom(number uint32) netip.Addr {
	return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, number)))
}
