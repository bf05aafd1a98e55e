package kernel

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// binfmtDir has a file for each kind of program that the kernel gives to an interpreter
// (kernel, Documentation/admin-guide/binfmt-misc.rst).
const binfmtDir = "/proc/sys/fs/binfmt_misc"

// elfHead is the beginning of a program for an architecture of Go's names, as far as it
// tells architectures apart: e_ident, e_type and e_machine (elf(5); the numbers are of
// elf.h). It is nil for an architecture that is not known.
func elfHead(arch string) []byte {
	const class32, class64 = 1, 2
	class, machine, big := byte(class64), uint16(0), false
	switch arch {
	case "386":
		class, machine = class32, 3
	case "amd64":
		machine = 62
	case "arm":
		class, machine = class32, 40
	case "arm64":
		machine = 183
	case "loong64":
		machine = 258
	case "mips64":
		machine, big = 8, true
	case "mips64le":
		machine = 8
	case "ppc64le":
		machine = 21
	case "riscv64":
		machine = 243
	case "s390x":
		machine, big = 22, true
	default:
		return nil
	}
	const executable = 2
	head := make([]byte, 16, 20)
	copy(head, "\x7fELF")
	head[4], head[5], head[6] = class, 1, 1
	if big {
		head[5] = 2
		return binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(head, executable), machine)
	}
	return binary.LittleEndian.AppendUint16(binary.LittleEndian.AppendUint16(head, executable), machine)
}

// Emulation tells whether programs of another architecture run inside containers: whether
// binfmt_misc has an interpreter for them that is opened beforehand (flag F), for the file
// itself is not in the container. The answer is not kept: one can be registered any time.
func Emulation(arch string) error { return emulation(binfmtDir, arch) }

func emulation(dir, arch string) error {
	head := elfHead(arch)
	if head == nil {
		return &missingError{"emulation of " + arch, errors.New("the architecture is not known")}
	}
	files, err := filepath.Glob(dir + "/*")
	if err != nil {
		return err
	}
	reason := errors.New("binfmt_misc has no interpreter for it")
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			continue // "register" cannot be read
		}
		switch found, fixed := interprets(string(text), head); {
		case found && fixed:
			return nil
		case found:
			reason = fmt.Errorf("its interpreter %s is registered without the flag F, and so is not there inside containers", filepath.Base(f))
		}
	}
	return &missingError{"emulation of " + arch, reason}
}

// interprets reads an entry of binfmt_misc: whether it takes programs with this head, and
// whether its interpreter is open already.
func interprets(entry string, head []byte) (found, fixed bool) {
	if !strings.HasPrefix(entry, "enabled\n") {
		return false, false
	}
	var magic, mask []byte
	offset := ""
	for line := range strings.Lines(entry) {
		k, v, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch k {
		case "flags:":
			fixed = strings.Contains(v, "F")
		case "offset":
			offset = v
		case "magic":
			magic, _ = hex.DecodeString(v)
		case "mask":
			mask, _ = hex.DecodeString(v)
		}
	}
	if offset != "0" || len(magic) < len(head) {
		return false, false // it looks at names, or at less than what tells architectures apart
	}
	for i := range head {
		bits := byte(0xff)
		if i < len(mask) {
			bits = mask[i]
		}
		if (head[i]^magic[i])&bits != 0 {
			return false, false
		}
	}
	return true, fixed
}
