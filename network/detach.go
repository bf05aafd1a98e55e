package network

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Detach takes a container off the network: published ports, veth pair, lease,
// record. What is missing is no error, so it may be repeated.
//
// A veth pair ends by itself with the namespace it leads to. If the namespace
// has no process and no descriptor left, Detach leaves that to the kernel and
// takes well under a millisecond; if not, it takes the pair off the bridge, see
// retire. So close the namespace's descriptor first.
func (m *Manager) Detach(ctx context.Context, containerID string) error {
	if !validContainerID(containerID) {
		return nil // no such container can have been attached
	}
	b := m.bridge()
	lock, err := flock(ctx, b.path("setup.lock"), unix.LOCK_SH)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // no container was attached ever
	}
	if err == nil {
		defer lock.Close()
		err = b.detachLocked(ctx, containerID)
	}
	if err != nil {
		return fmt.Errorf("detach container %s from the network: %w", containerID, err)
	}
	return nil
}

// detachLocked needs the set-up lock, shared or not.
func (b *bridge) detachLocked(ctx context.Context, containerID string) error {
	endpoint, err := b.readEndpoint(containerID)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		// Announced, or damaged: what was it about to get?
		return b.detachByLeaseLocked(ctx, containerID)
	}
	index, err := b.index()
	if err != nil {
		return err
	}
	return b.undoLocked(ctx, index, endpoint)
}

// detachByLeaseLocked finds what a container has when no record says it.
func (b *bridge) detachByLeaseLocked(ctx context.Context, containerID string) error {
	index, err := b.index()
	if err != nil {
		return err
	}
	leases, err := b.leases()
	if err != nil {
		return err
	}
	for address, owner := range leases {
		if owner != containerID {
			continue
		}
		left := &Endpoint{ContainerID: containerID, IP: address, HostInterface: hostInterface(address), Namespace: -1}
		if err := b.undoLocked(ctx, index, left); err != nil {
			return err
		}
	}
	return b.removeEndpoint(containerID)
}

// index is the bridge's interface index, 0 if there is no such interface.
func (b *bridge) index() (int, error) {
	index, _, err := linkStatus(b.name)
	if errors.Is(err, unix.ENODEV) {
		return 0, nil
	}
	return index, err
}

// undoLocked removes what an endpoint has, the newest first. index is that of
// the bridge, 0 if there is none.
func (b *bridge) undoLocked(ctx context.Context, index int, endpoint *Endpoint) error {
	published, err := b.publishedFor(endpoint)
	if err != nil {
		return err
	}
	if err := b.withdraw(ctx, published); err != nil {
		return err
	}
	if index != 0 {
		if err := removePort(index, endpoint); err != nil {
			return err
		}
	}
	if err := b.release(endpoint.ContainerID, endpoint.IP); err != nil {
		return err
	}
	return b.removeEndpoint(endpoint.ContainerID)
}

// publishedFor finds a container's publications. An endpoint that is complete
// lists them; of one that is not, the records tell.
func (b *bridge) publishedFor(endpoint *Endpoint) ([]publication, error) {
	if endpoint.Bridge != "" && len(endpoint.Ports) == 0 {
		return nil, nil
	}
	all, err := b.publications()
	if err != nil {
		return nil, err
	}
	var list []publication
	for _, p := range all {
		if p.container == endpoint.ContainerID && p.target.Addr() == endpoint.IP {
			list = append(list, p)
		}
	}
	return list, nil
}

// removePort retires an endpoint's veth pair unless the kernel is at it.
func removePort(bridge int, endpoint *Endpoint) error {
	host, err := dial(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer host.close()
	if !alive(host, endpoint.Namespace) {
		return nil
	}
	found, err := findPort(host, bridge, endpoint.HostInterface)
	if errors.Is(err, unix.ENODEV) || err == nil && !alive(host, found.peerNamespace) {
		return nil
	}
	if err != nil {
		return err
	}
	return retire(host, found.index)
}

func (b *bridge) removeEndpoint(containerID string) error {
	path := b.endpointPath(containerID)
	_ = os.Remove(stagingPath(path)) // there only if a writer died
	err := os.Remove(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove record of endpoint: %w", err)
	}
	return nil
}

// Report is what Sweep mended, or Look found.
type Report struct {
	// Containers that do not run and had an endpoint, whole or partial.
	Containers []string
	// Links, ports and other objects that belonged to no container on record.
	Links []string
	Ports []string
}

// Empty tells that there was nothing to mend.
func (r Report) Empty() bool {
	return len(r.Containers) == 0 && len(r.Links) == 0 && len(r.Ports) == 0
}

// Sweep removes what containers have left that ended without Detach. live is
// asked for each container on record and must say true for one that is only
// about to start: whose Attach may be running at this moment.
func (m *Manager) Sweep(ctx context.Context, live func(containerID string) bool) (Report, error) {
	return m.sweep(ctx, live, true)
}

// Look finds what Sweep would remove, and removes nothing.
func (m *Manager) Look(ctx context.Context, live func(containerID string) bool) (Report, error) {
	return m.sweep(ctx, live, false)
}

func (m *Manager) sweep(ctx context.Context, live func(string) bool, mend bool) (Report, error) {
	b := m.bridge()
	var report Report
	lock, err := flock(ctx, b.path("setup.lock"), unix.LOCK_SH)
	if errors.Is(err, fs.ErrNotExist) {
		return report, nil
	}
	if err == nil {
		defer lock.Close()
		err = b.sweepLocked(ctx, live, mend, &report)
	}
	if err != nil {
		return report, fmt.Errorf("sweep network %s: %w", b.name, err)
	}
	return report, nil
}

func (b *bridge) sweepLocked(ctx context.Context, live func(string) bool, mend bool, report *Report) error {
	recorded, err := b.recorded()
	if err != nil {
		return err
	}
	for containerID := range recorded {
		if live(containerID) {
			continue
		}
		if mend {
			if err := errors.Join(b.detachLocked(ctx, containerID), b.detachByLeaseLocked(ctx, containerID)); err != nil {
				return err
			}
		}
		report.Containers = append(report.Containers, containerID)
	}
	if err := b.sweepPublications(ctx, live, mend, report); err != nil {
		return err
	}
	return b.sweepLinks(mend, report)
}

// recorded is every container that has a lease or an endpoint.
func (b *bridge) recorded() (map[string]bool, error) {
	leases, err := b.leases()
	if err != nil {
		return nil, err
	}
	names, err := readNames(b.path("endpoints"))
	if err != nil {
		return nil, fmt.Errorf("list endpoints: %w", err)
	}
	recorded := make(map[string]bool, len(names))
	for _, owner := range leases {
		recorded[owner] = true
	}
	for _, name := range names {
		// ".ID.json" was being written when its writer died, or is just now.
		if containerID, isRecord := strings.CutSuffix(strings.TrimPrefix(name, "."), ".json"); isRecord {
			recorded[containerID] = true
		}
	}
	return recorded, nil
}

// sweepPublications withdraws ports of containers that are gone, and map
// elements that are on no record.
func (b *bridge) sweepPublications(ctx context.Context, live func(string) bool, mend bool, report *Report) error {
	lock, err := flock(ctx, b.path("ports.lock"), unix.LOCK_EX)
	if err != nil {
		return err
	}
	defer lock.Close()
	records, err := b.publications()
	if err != nil {
		return err
	}
	known := map[string]netip.AddrPort{}
	var stale []publication
	for _, p := range records {
		if live(p.container) {
			known[p.name()] = p.target
		} else {
			stale = append(stale, p)
		}
	}
	if exists, err := tableExists(b.name); err != nil || !exists {
		if mend {
			err = errors.Join(err, b.forget(stale))
		}
		return err
	}
	r, err := newRuleset(b.name)
	if err != nil {
		return err
	}
	defer r.close()
	elements, err := r.elements()
	if err != nil {
		return err
	}
	for _, p := range elements {
		if known[p.name()] != p.target {
			stale = append(stale, p)
		}
	}
	for _, p := range stale {
		if !slices.Contains(report.Ports, p.name()) { // on record and in the table
			report.Ports = append(report.Ports, p.name())
		}
	}
	if !mend {
		return nil
	}
	return b.withdrawLocked(stale)
}

// sweepLinks retires ports of the bridge for whose address there is no lease.
// A lease is older than its link, so the links are listed first.
func (b *bridge) sweepLinks(mend bool, report *Report) error {
	index, err := b.index()
	if err != nil || index == 0 {
		return err
	}
	host, err := dial(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer host.close()
	list, err := ports(host, index)
	if err != nil {
		return err
	}
	leases, err := b.leases()
	if err != nil {
		return err
	}
	leased := make(map[string]bool, len(leases))
	for address := range leases {
		leased[hostInterface(address)] = true
	}
	for _, found := range list {
		// Links that somebody else made a port of our bridge stay.
		if !isHostInterface(found.name) || leased[found.name] || !alive(host, found.peerNamespace) {
			continue
		}
		if mend {
			if err := retire(host, found.index); err != nil {
				return err
			}
		}
		report.Links = append(report.Links, found.name)
	}
	return nil
}

// isHostInterface tells whether hostInterface makes such a name.
func isHostInterface(name string) bool {
	if len(name) != len("viv")+8 || name[:3] != "viv" {
		return false
	}
	for _, digit := range name[3:] {
		if !('0' <= digit && digit <= '9' || 'a' <= digit && digit <= 'f') {
			return false
		}
	}
	return true
}

// Teardown removes the default bridge, its table, every link on it that is
// ours, and all records. Containers that run lose their network. What is
// missing is no error. net.ipv4.ip_forward stays as it is.
func (m *Manager) Teardown(ctx context.Context) error {
	b := m.bridge()
	lock, err := flock(ctx, b.path("setup.lock"), unix.LOCK_EX)
	if errors.Is(err, fs.ErrNotExist) {
		// Nothing on record; but the records may have been removed by hand.
		index, _ := b.index()
		if exists, _ := tableExists(b.name); index == 0 && !exists {
			return nil
		}
		if err = b.makeDirs(); err == nil {
			lock, err = flock(ctx, b.path("setup.lock"), unix.LOCK_EX)
		}
	}
	if err == nil {
		defer lock.Close()
		err = b.tearDownLocked()
	}
	if err != nil {
		return fmt.Errorf("tear down network %s: %w", b.name, err)
	}
	return nil
}

func (b *bridge) tearDownLocked() error {
	if err := deleteTable(b.name); err != nil {
		return err
	}
	index, err := b.index()
	if err != nil {
		return err
	}
	if index != 0 {
		host, err := dial(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer host.close()
		list, err := ports(host, index)
		if err != nil {
			return err
		}
		for _, found := range list {
			if isHostInterface(found.name) && alive(host, found.peerNamespace) {
				if err := retire(host, found.index); err != nil {
					return err
				}
			}
		}
		if err := deleteLink(host, index); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(b.dir); err != nil {
		return fmt.Errorf("remove records: %w", err)
	}
	return nil
}
