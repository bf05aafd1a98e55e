package network

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// DefaultStateDir is the state directory whose engine owns the bridge viv0.
const DefaultStateDir = "/run/viv"

// lockTimeout bounds the wait for a lock of ours when the context has no
// earlier deadline.
const lockTimeout = 30 * time.Second

// Errors that callers tell apart.
var (
	// ErrPortAllocated: another container of the same engine publishes the port.
	ErrPortAllocated = errors.New("port is already allocated")
	// ErrAddressAllocated: another container of the same engine has the address.
	ErrAddressAllocated = errors.New("address already in use")
	// ErrNoAddress: every address of the subnet is leased.
	ErrNoAddress = errors.New("no available IPv4 addresses on this network's address pools")
	// ErrNotAttached: the container has no endpoint.
	ErrNotAttached = errors.New("container is not attached to the network")
)

// Manager makes and removes the endpoints of one engine's containers. All its
// methods may be called at once, from several processes too.
type Manager struct {
	stateDir string
}

// Open names an engine's networks by its state directory. It does no work and
// cannot fail.
func Open(stateDir string) *Manager {
	if absolute, err := filepath.Abs(stateDir); err == nil {
		stateDir = absolute
	}
	return &Manager{stateDir: filepath.Clean(stateDir)}
}

// Bridge is the name of the default bridge, and of its nftables table: viv0
// for the engine at DefaultStateDir, and for others a name that follows from
// the path of their state directory alone.
func (m *Manager) Bridge() string {
	if m.stateDir == DefaultStateDir {
		return "viv0"
	}
	sum := sha256.Sum256([]byte(m.stateDir))
	return "vivbr" + hex.EncodeToString(sum[:4])
}

// bridge is one bridge network: the directory of its records.
type bridge struct {
	name string
	dir  string
}

func (m *Manager) bridge() *bridge {
	name := m.Bridge()
	return &bridge{name: name, dir: filepath.Join(m.stateDir, "network", name)}
}

func (b *bridge) path(elements ...string) string {
	return filepath.Join(append([]string{b.dir}, elements...)...)
}

// Request says what a container wants from the bridge network.
type Request struct {
	ContainerID string
	// Interface is the name inside the container; "" is eth0.
	Interface string
	// IP is a fixed address in the subnet; the zero value takes the next free.
	IP netip.Addr
	// MAC is a fixed hardware address; nil derives one from the IP.
	MAC net.HardwareAddr
	// Ports to publish, ranges expanded as ParsePort does.
	Ports []PortMapping
	// HoldPorts asks for Endpoint.PortSockets.
	HoldPorts bool
}

// Endpoint is what a container got.
type Endpoint struct {
	ContainerID string `json:"containerID"`
	Bridge      string `json:"bridge"`
	Interface   string `json:"interface"`
	// HostInterface is the other end of the veth pair, a port of the bridge.
	HostInterface string `json:"hostInterface"`
	// Namespace is the kernel's number for the namespace, -1 if unknown.
	Namespace int32      `json:"namespace"`
	IP        netip.Addr `json:"ip"`
	PrefixLen int        `json:"prefixLen"`
	Gateway   netip.Addr `json:"gateway"`
	MAC       string     `json:"mac"`
	MTU       int        `json:"mtu"`
	// Ports as published: HostPort is never 0 and HostIP always valid.
	Ports []PortMapping `json:"ports,omitempty"`
	// PortSockets are bound to the published host ports, for Request.HoldPorts.
	// As long as somebody has them open, no other program on the host can bind
	// such a port and wonder why nothing arrives; nobody ever reads from them.
	// The caller passes them on (to the container's monitor) and closes them.
	PortSockets []*os.File `json:"-"`
}

// validContainerID accepts 1 to 128 letters, digits, '_', '.' and '-', the first
// a letter or digit.
func validContainerID(id string) bool {
	for i := range len(id) {
		c := id[i]
		alnum := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !alnum && (i == 0 || !strings.ContainsRune("_.-", rune(c))) {
			return false
		}
	}
	return len(id) > 0 && len(id) <= 128
}

// check refuses what could not be recorded or set. A container's ID becomes
// the name of a file.
func (r *Request) check() error {
	if !validContainerID(r.ContainerID) {
		return fmt.Errorf("container ID %q is not a name of letters, digits, '_', '.' and '-'", r.ContainerID)
	}
	if r.Interface == "" {
		r.Interface = "eth0"
	}
	if len(r.Interface) >= unix.IFNAMSIZ || r.Interface == "lo" {
		return fmt.Errorf("interface name %q: want 1 to %d characters, and not lo", r.Interface, unix.IFNAMSIZ-1)
	}
	if r.MAC != nil && (len(r.MAC) != 6 || r.MAC[0]&1 != 0) {
		return fmt.Errorf("MAC address %s is not a unicast Ethernet address", r.MAC)
	}
	for _, port := range r.Ports {
		if err := port.check(); err != nil {
			return err
		}
	}
	return nil
}

// flock takes a lock on a file that it makes, and returns what unlocks when
// closed. The kernel drops it when its holder dies. Nobody waits longer than
// ctx or lockTimeout.
func flock(ctx context.Context, path string, how int) (*os.File, error) {
	ctx, cancel := context.WithTimeout(ctx, lockTimeout)
	defer cancel()
	for {
		file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, fmt.Errorf("open lock: %w", err)
		}
		if err := waitForLock(ctx, file, how); err != nil {
			return nil, err
		}
		// Teardown removes the file: a lock on what is no longer there under
		// this name excludes nobody.
		held, err := file.Stat()
		current, pathErr := os.Stat(path)
		if err == nil && pathErr == nil && os.SameFile(held, current) {
			return file, nil
		}
		_ = file.Close()
		if err = errors.Join(err, ctx.Err()); err != nil {
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
	}
}

// waitForLock locks a file, and closes it if it cannot.
func waitForLock(ctx context.Context, file *os.File, how int) error {
	// Nearly always free: then no goroutine is needed.
	if unix.Flock(int(file.Fd()), how|unix.LOCK_NB) == nil {
		return nil
	}
	done := make(chan error)
	go func() {
		err := unix.Flock(int(file.Fd()), how)
		for err == unix.EINTR {
			err = unix.Flock(int(file.Fd()), how)
		}
		select {
		case done <- err:
		case <-ctx.Done(): // nobody waits any more: closing gives the lock back
			_ = file.Close()
		}
	}()
	select {
	case err := <-done:
		if err != nil {
			_ = file.Close()
			return fmt.Errorf("lock %s: %w", file.Name(), err)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for lock %s, which another viv command holds: %w", file.Name(), ctx.Err())
	}
}

// writeFile puts a file in place so that readers see the old or the new
// content. Only one may write the same file at once. The state directory does
// not outlive a reboot: nothing is synced.
func writeFile(path string, content []byte) error {
	staging := stagingPath(path)
	err := os.WriteFile(staging, content, 0o600)
	if err == nil {
		err = os.Rename(staging, path)
	}
	if err != nil {
		_ = os.Remove(staging)
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

func stagingPath(path string) string {
	return filepath.Join(filepath.Dir(path), "."+filepath.Base(path))
}
