// Package vm boots Debian's kernel in an emulated machine, to test there what the
// host does not have: control groups v2 with every controller, all resource
// limits, and losing power.
//
// The machine's files are an initramfs made of static programs: the guest of
// ./guest as first process, busybox, and whatever [Config] adds.
package vm

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"vivarium/internal/testenv"
)

// kernelPackage is the Debian package that depends on the newest kernel for
// virtual machines.
const kernelPackage = "linux-image-cloud-amd64"

// modules are loaded in every machine; what they depend on comes along.
var modules = []string{
	"virtio_pci", "virtio_blk", "virtio_net", "virtio_rng",
	"overlay", "fuse", "xfs", "btrfs", "erofs", "loop", "dm-mod", "dm-flakey",
	"bridge", "br_netfilter", "veth", "macvlan", "ipvlan", "vxlan", "dummy", "tun",
	"nf_tables", "nf_nat", "nf_conntrack", "nf_conntrack_netlink", "nft_chain_nat", "nft_nat", "nft_masq", "nft_ct",
	"nft_redir", "nft_fib", "nft_fib_inet", "nft_fib_ipv4", "nft_fib_ipv6",
	"nft_reject", "nft_reject_inet", "nft_limit", "nft_log", "nft_numgen", "nft_hash", "nft_objref",
}

// kernel is an unpacked kernel package.
type kernel struct {
	image   string // the bzImage
	modules string // .../lib/modules/<release>
	release string
}

// findKernel returns the kernel in the test cache, fetched as a Debian package if
// it is not there yet. Nothing is installed.
func findKernel() (kernel, error) {
	dir, err := testenv.Cached("kernel-cloud-amd64", fetchKernel)
	if err != nil {
		return kernel{}, err
	}
	images, err := filepath.Glob(filepath.Join(dir, "boot", "vmlinuz-*"))
	if err != nil || len(images) != 1 {
		return kernel{}, fmt.Errorf("find one kernel in %s/boot: found %d (%v)", dir, len(images), err)
	}
	release := strings.TrimPrefix(filepath.Base(images[0]), "vmlinuz-")
	return kernel{image: images[0], release: release, modules: filepath.Join(dir, "lib", "modules", release)}, nil
}

func fetchKernel(dir string) error {
	name, err := realKernelPackage()
	if err != nil {
		// The lists of packages may be missing or old.
		if out, updateErr := command("", "apt-get", "-q", "update"); updateErr != nil {
			return fmt.Errorf("%w; %w\n%s", err, updateErr, out)
		}
		if name, err = realKernelPackage(); err != nil {
			return err
		}
	}
	if out, err := download(dir, name); err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	packages, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err != nil || len(packages) != 1 {
		return fmt.Errorf("find the downloaded kernel package in %s: found %d (%v)", dir, len(packages), err)
	}
	if out, err := command(dir, "dpkg", "-x", packages[0], dir); err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	if err := os.Remove(packages[0]); err != nil {
		return err
	}
	releases, err := os.ReadDir(filepath.Join(dir, "lib", "modules"))
	if err != nil || len(releases) != 1 {
		return fmt.Errorf("find one kernel release in %s: found %d (%v)", name, len(releases), err)
	}
	if out, err := command(dir, "depmod", "-b", dir, releases[0].Name()); err != nil {
		return fmt.Errorf("%w (test/install-deps installs kmod)\n%s", err, out)
	}
	return nil
}

// download fetches the package; lists that name a version which the archive no
// longer has are refreshed once.
func download(dir, name string) (string, error) {
	out, err := command(dir, "apt-get", "-q", "download", name)
	if err == nil {
		return out, nil
	}
	if out, err := command("", "apt-get", "-q", "update"); err != nil {
		return out, err
	}
	return command(dir, "apt-get", "-q", "download", name)
}

func realKernelPackage() (string, error) {
	out, err := command("", "apt-cache", "depends", kernelPackage)
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(out) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "Depends: "); ok && strings.HasPrefix(name, "linux-image-") {
			return name, nil
		}
	}
	return "", fmt.Errorf("find the package behind %s: apt-cache names none", kernelPackage)
}

func command(dir, name string, args ...string) (string, error) {
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	if os.Geteuid() == 0 {
		// depmod is not in everybody's path.
		cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("run %s %s: %w", name, strings.Join(args, " "), err)
	}
	return string(out), err
}

// closure returns the files of the named modules and of all that they depend on,
// relative to the kernel's module directory, each after what it depends on. A
// module that is built in has no file.
func (k kernel) closure(names []string) ([]string, error) {
	dep, err := os.ReadFile(filepath.Join(k.modules, "modules.dep"))
	if err != nil {
		return nil, err
	}
	builtin, err := os.ReadFile(filepath.Join(k.modules, "modules.builtin"))
	if err != nil {
		return nil, err
	}
	return closure(dep, builtin, names)
}

// closure reads modules.dep and modules.builtin; see modules.dep(5). A line of the
// former is "file: what it needs...", the last of which must be loaded first.
func closure(dep, builtin []byte, names []string) ([]string, error) {
	needs := map[string][]string{}
	byName := map[string]string{}
	for scan := bufio.NewScanner(bytes.NewReader(dep)); scan.Scan(); {
		path, rest, ok := strings.Cut(scan.Text(), ":")
		if !ok {
			return nil, errors.New("read modules.dep: a line without a colon")
		}
		needs[path] = strings.Fields(rest)
		byName[moduleName(path)] = path
	}
	inKernel := map[string]bool{}
	for scan := bufio.NewScanner(bytes.NewReader(builtin)); scan.Scan(); {
		inKernel[moduleName(scan.Text())] = true
	}
	var order []string
	add := func(path string) {
		if !slices.Contains(order, path) {
			order = append(order, path)
		}
	}
	for _, name := range names {
		path := byName[moduleName(name)]
		if path == "" {
			if inKernel[moduleName(name)] {
				continue
			}
			return nil, fmt.Errorf("the kernel has no module %s", name)
		}
		for _, need := range slices.Backward(needs[path]) {
			add(need)
		}
		add(path)
	}
	return order, nil
}

// moduleName is a module's name from its file's; the two disagree about dashes.
func moduleName(path string) string {
	name := filepath.Base(path)
	name, _, _ = strings.Cut(name, ".ko")
	return strings.ReplaceAll(name, "-", "_")
}
