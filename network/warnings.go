package network

import (
	"fmt"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// Warnings says what on the host keeps containers from their network although
// everything of ours is in place, one sentence each with what to do. It lists
// every nftables chain of the host and is meant for `viv system check`.
func (m *Manager) Warnings() ([]string, error) {
	conn, err := nftables.New()
	if err != nil {
		return nil, fmt.Errorf("open nftables: %w", err)
	}
	name := m.Bridge()
	var warnings []string
	for _, family := range []nftables.TableFamily{nftables.TableFamilyIPv4, nftables.TableFamilyINet} {
		chains, err := conn.ListChainsOfTableFamily(family)
		if err != nil {
			return nil, fmt.Errorf("list nftables chains: %w", err)
		}
		docker := false
		for _, chain := range chains {
			docker = docker || chain.Name == "DOCKER-USER"
		}
		for _, chain := range chains {
			if chain.Hooknum == nil || *chain.Hooknum != unix.NF_INET_FORWARD || chain.Policy == nil || *chain.Policy != nftables.ChainPolicyDrop {
				continue
			}
			warnings = append(warnings, forwardWarning(name, family, chain, docker))
		}
	}
	return warnings, nil
}

func forwardWarning(bridge string, family nftables.TableFamily, chain *nftables.Chain, docker bool) string {
	familyName := "ip"
	if family == nftables.TableFamilyINet {
		familyName = "inet"
	}
	remedy := fmt.Sprintf("nft insert rule %[1]s %[2]s %[3]s iifname %[4]s accept; nft insert rule %[1]s %[2]s %[3]s oifname %[4]s accept",
		familyName, chain.Table.Name, chain.Name, bridge)
	if docker {
		remedy = fmt.Sprintf("iptables -I DOCKER-USER -i %[1]s -j ACCEPT; iptables -I DOCKER-USER -o %[1]s -j ACCEPT", bridge)
	}
	return fmt.Sprintf("chain %s of nftables table %s %s drops what it does not know, containers reach the outside only if it accepts the bridge: %s",
		chain.Name, familyName, chain.Table.Name, remedy)
}
