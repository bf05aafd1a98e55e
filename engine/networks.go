package engine

import (
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"slices"
	"strings"
)

// Network is one of the networks that a container can be on.
type Network struct {
	Name   string
	ID     string // 64 hexadecimal digits, always the same for one engine's network
	Driver string // bridge, host or null
	Scope  string
}

// Networks lists the networks, by name. Filters: id, name, driver, scope, type, dangling, label.
func (e *Engine) Networks(f Filters) ([]Network, error) {
	if err := f.check("id", "name", "driver", "scope", "type", "dangling", "label"); err != nil {
		return nil, err
	}
	for _, t := range f["type"] {
		if t != "builtin" && t != "custom" {
			return nil, errorf(ErrInvalid, "invalid filter: 'type'='%s'", t)
		}
	}
	if _, err := f.bool("dangling", false); err != nil {
		return nil, err
	}
	var list []Network
	for _, name := range slices.Sorted(maps.Keys(networkDrivers)) {
		net := Network{Name: name, ID: e.networkID(name), Driver: networkDrivers[name], Scope: "local"}
		if net.matches(f) {
			list = append(list, net)
		}
	}
	return list, nil
}

// networkDrivers are the networks that there are, with their drivers.
var networkDrivers = map[string]string{bridgeNetwork: "bridge", "host": "host", "none": "null"}

// networkID names a network of this engine: two engines' bridges are two networks.
func (e *Engine) networkID(name string) string {
	sum := sha256.Sum256([]byte(e.State + "\x00" + name))
	return hex.EncodeToString(sum[:])
}

// matches applies the filters. The networks that there are are built in, carry no
// labels, and count as used.
func (n *Network) matches(f Filters) bool {
	return f.any("id", func(v string) bool { return strings.Contains(n.ID, v) }) &&
		f.any("name", func(v string) bool { return strings.Contains(n.Name, v) }) &&
		f.any("driver", func(v string) bool { return v == n.Driver }) &&
		f.any("scope", func(v string) bool { return v == n.Scope }) &&
		f.any("type", func(v string) bool { return v == "builtin" }) &&
		f.any("dangling", func(v string) bool { return v == "false" || v == "0" }) &&
		len(f["label"]) == 0
}
