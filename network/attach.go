package network

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// Attach gives a network namespace an interface on the default bridge, which
// is made if it is not there: address, default route, published ports. lo is
// left alone (NewNamespace and LoopbackUp bring it up).
//
// An endpoint that is left of an earlier life of the same container is removed
// first. On an error nothing of the new one is left. ctx bounds the waits for
// locks.
func (m *Manager) Attach(ctx context.Context, namespace *os.File, request Request) (Endpoint, error) {
	endpoint, err := m.bridge().attach(ctx, namespace, request)
	if err != nil {
		return Endpoint{}, fmt.Errorf("attach container %.12s to the network: %w", request.ContainerID, err)
	}
	return endpoint, nil
}

func (b *bridge) attach(ctx context.Context, namespace *os.File, request Request) (_ Endpoint, err error) {
	if err := request.check(); err != nil {
		return Endpoint{}, err
	}
	config, index, lock, err := b.ready(ctx)
	if err != nil {
		return Endpoint{}, err
	}
	defer lock.Close()
	if err := b.announceLocked(ctx, request.ContainerID); err != nil {
		return Endpoint{}, err
	}
	address, err := b.lease(config, request.ContainerID, request.IP)
	if err != nil {
		return Endpoint{}, errors.Join(err, b.removeEndpoint(request.ContainerID))
	}
	endpoint := newEndpoint(config, &request, address)
	defer func() {
		if err != nil {
			closeAll(endpoint.PortSockets)
			// The caller's context may be what ended this.
			err = errors.Join(err, b.undoLocked(context.WithoutCancel(ctx), index, &endpoint))
		}
	}()
	if err := b.publishFor(ctx, &request, &endpoint); err != nil {
		return Endpoint{}, err
	}
	if err := b.connect(index, namespace, &endpoint, &request); err != nil {
		return Endpoint{}, err
	}
	text, err := json.Marshal(endpoint)
	if err != nil {
		return Endpoint{}, err
	}
	if err := writeFile(b.endpointPath(request.ContainerID), text); err != nil {
		return Endpoint{}, err
	}
	return endpoint, nil
}

// announceLocked makes an empty record of an endpoint, before anything else of
// it: whoever finds it knows to look for what a killed Attach has left.
func (b *bridge) announceLocked(ctx context.Context, containerID string) error {
	for range 2 {
		file, err := os.OpenFile(b.endpointPath(containerID), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err == nil {
			return file.Close()
		}
		if !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("announce endpoint: %w", err)
		}
		if err := b.detachLocked(ctx, containerID); err != nil {
			return fmt.Errorf("remove its earlier endpoint: %w", err)
		}
	}
	return errors.New("announce endpoint: the same container is being attached by somebody else")
}

func newEndpoint(config *bridgeConfig, request *Request, address netip.Addr) Endpoint {
	if request.MAC == nil {
		request.MAC = derivedMAC(address)
	}
	return Endpoint{
		ContainerID:   request.ContainerID,
		Bridge:        config.Name,
		Interface:     request.Interface,
		HostInterface: hostInterface(address),
		Namespace:     -1,
		IP:            address,
		PrefixLen:     config.Subnet.Bits(),
		Gateway:       config.Gateway,
		MAC:           request.MAC.String(),
		MTU:           config.MTU,
	}
}

// hostInterface names the host's end of a veth pair after the address that is
// leased with it. So a lease alone tells what else there may be, and two live
// endpoints never have the same.
func hostInterface(address netip.Addr) string {
	bytes := address.As4()
	return "viv" + hex.EncodeToString(bytes[:])
}

func (b *bridge) publishFor(ctx context.Context, request *Request, endpoint *Endpoint) error {
	if len(request.Ports) == 0 {
		return nil
	}
	resolved, sockets, err := b.publish(ctx, request.ContainerID, endpoint.IP, request.Ports)
	if err != nil {
		return err
	}
	endpoint.Ports = resolved
	if request.HoldPorts {
		endpoint.PortSockets = sockets
	} else {
		closeAll(sockets)
	}
	return nil
}

// connect makes the veth pair and configures the container's end.
func (b *bridge) connect(index int, namespace *os.File, endpoint *Endpoint, request *Request) error {
	host, err := dial(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer host.close()
	pair := &veth{
		host:      endpoint.HostInterface,
		bridge:    index,
		mtu:       endpoint.MTU,
		peer:      endpoint.Interface,
		peerMAC:   request.MAC,
		peerIP:    endpoint.IP,
		namespace: namespace,
		hairpin:   len(endpoint.Ports) > 0,
	}
	if err := pair.replace(host); err != nil {
		return fmt.Errorf("create interfaces %s and %s: %w%s", pair.host, pair.peer, err, privilegeHint(err))
	}
	if endpoint.Namespace, err = namespaceNumber(host, namespace); err != nil {
		return err
	}
	return inNamespace(namespace, func() error { return pair.configure(endpoint.Gateway, endpoint.PrefixLen) })
}

func (b *bridge) endpointPath(containerID string) string {
	return b.path("endpoints", containerID+".json")
}

// Endpoint gives what Attach returned for a container; the error is
// ErrNotAttached if there is nothing.
func (m *Manager) Endpoint(containerID string) (Endpoint, error) {
	if !validContainerID(containerID) {
		return Endpoint{}, fmt.Errorf("read endpoint of container %q: %w", containerID, ErrNotAttached)
	}
	endpoint, err := m.bridge().readEndpoint(containerID)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, errAnnounced) {
		err = ErrNotAttached
	}
	if err != nil {
		return Endpoint{}, fmt.Errorf("read endpoint of container %s: %w", containerID, err)
	}
	return *endpoint, nil
}

// errAnnounced says that an endpoint is being made, or was when its maker died.
var errAnnounced = errors.New("endpoint is not complete")

func (b *bridge) readEndpoint(containerID string) (*Endpoint, error) {
	text, err := os.ReadFile(b.endpointPath(containerID))
	if err != nil {
		return nil, err
	}
	if len(text) == 0 {
		return nil, errAnnounced
	}
	endpoint := new(Endpoint)
	if err := json.Unmarshal(text, endpoint); err != nil {
		return nil, fmt.Errorf("read %s: %w", b.endpointPath(containerID), err)
	}
	return endpoint, nil
}
