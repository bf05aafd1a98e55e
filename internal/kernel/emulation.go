package kernel

import (
	"debug/elf"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// binfmtDir has a file for each kind of program that the kernel gives to an interpreter
// (kernel, Documentation/admin-guide/binfmt-misc.rst).
const binfmtDir = "/proc/sys/fs/binfmt_misc"

// machines are ELF's words for Go's architectures.
var machines = map[string]struct {
	class   elf.Class
	order   binary.AppendByteOrder
	machine elf.Machine
}{
	"386":      {elf.ELFCLASS32, binary.LittleEndian, elf.EM_386},
	"amd64":    {elf.ELFCLASS64, binary.LittleEndian, elf.EM_X86_64},
	"arm":      {elf.ELFCLASS32, binary.LittleEndian, elf.EM_ARM},
	"arm64":    {elf.ELFCLASS64, binary.LittleEndian, elf.EM_AARCH64},
	"loong64":  {elf.ELFCLASS64, binary.LittleEndian, elf.EM_LOONGARCH},
	"mips64":   {elf.ELFCLASS64, binary.BigEndian, elf.EM_MIPS},
	"mips64le": {elf.ELFCLASS64, binary.LittleEndian, elf.EM_MIPS},
	"ppc64le":  {elf.ELFCLASS64, binary.LittleEndian, elf.EM_PPC64},
	"riscv64":  {elf.ELFCLASS64, binary.LittleEndian, elf.EM_RISCV},
	"s390x":    {elf.ELFCLASS64, binary.BigEndian, elf.EM_S390},
}

// Emulation tells whether programs of another architecture run inside containers: whether
// binfmt_misc has an interpreter for them that is opened beforehand (flag F), for the file
// itself is not in the container. The answer is not kept: one can be registered any time.
func Emulation(arch string) error { return emulation(binfmtDir, arch) }

func emulation(dir, arch string) error {
	m, ok := machines[arch]
	if !ok {
		return &missingError{"emulation of " + arch, fmt.Errorf("the architecture is not known")}
	}
	data := elf.ELFDATA2LSB
	if m.order == binary.AppendByteOrder(binary.BigEndian) {
		data = elf.ELFDATA2MSB
	}
	head := append([]byte(elf.ELFMAG), byte(m.class), byte(data), byte(elf.EV_CURRENT))
	head = append(head, make([]byte, elf.EI_NIDENT-len(head))...)
	head = m.order.AppendUint16(head, uint16(elf.ET_EXEC))
	head = m.order.AppendUint16(head, uint16(m.machine))
	files, err := filepath.Glob(dir + "/*")
	if err != nil {
		return err
	}
	reason := fmt.Errorf("binfmt_misc has no interpreter for it")
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
