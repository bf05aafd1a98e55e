package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"vivarium/test/vm"
	"vivarium/test/vm/protocol"
)

// emulatedRounds are fewer than on the host: a run takes half a second.
const emulatedRounds = 10

// onV2 boots a machine with control groups v2, has this program measure the OCI
// runtimes there, and adds its table to the report.
func onV2(o options) error {
	fmt.Println("== OCI runtimes on control groups v2, in a virtual machine")
	dir, err := os.MkdirTemp("", "viv-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	files, err := machineFiles(o)
	if err != nil {
		return err
	}
	m, err := vm.Boot(vm.Config{Dir: dir, Files: files, Timeout: time.Hour, Jobs: []protocol.Job{
		{
			Name: "measure", Path: "/opt/viv/bench", Dir: "/root",
			Env:  []string{"TMPDIR=/tmp", "HOME=/root", "PATH=/usr/local/bin:/bin:/sbin:/usr/bin:/usr/sbin"},
			Args: []string{"-runtimes", "/opt/rootfs.tar", "-only", o.only, "-bin", "/opt/viv", "-rounds", strconv.Itoa(min(o.rounds, emulatedRounds)), "-out", "/root/table"},
		},
		{Name: "table", Path: "/bin/cat", Args: []string{"/root/table"}},
	}})
	if err != nil {
		return err
	}
	defer m.Close()
	results, err := m.Wait()
	if err != nil {
		return fmt.Errorf("measure in the virtual machine: %w", err)
	}
	for _, res := range results {
		if res.Code != 0 {
			return fmt.Errorf("measure in the virtual machine: %s: status %d\n%s", res.Name, res.Code, res.Output)
		}
	}
	table := strings.ReplaceAll(results[1].Output, "\r", "")
	fmt.Print(results[0].Output)
	if o.out == "" {
		return nil
	}
	f, err := os.OpenFile(o.out, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	if _, err := f.WriteString(table); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

// machineFiles are what the measurement needs in the machine.
func machineFiles(o options) (map[string]string, error) {
	rootfs, err := testRootfs()
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	files := map[string]string{
		"/opt/rootfs.tar": rootfs, "/opt/viv/bench": self, "/opt/viv/viv-oci": filepath.Join(o.bin, "viv-oci"),
	}
	for _, name := range []string{"crun", "runc", "tar", "time"} {
		if err := vm.AddProgram(files, name); err != nil {
			return nil, err
		}
	}
	// It is called by this name, as the programs of the shell are.
	files["/usr/bin/time"] = files["/usr/local/bin/time"]
	return files, nil
}
