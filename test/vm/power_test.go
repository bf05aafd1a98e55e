package vm

import (
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"vivarium/internal/testenv"
	"vivarium/test/vm/protocol"
)

var (
	powerRounds = flag.Int("power-rounds", 1, "how often TestPowerCutStore cuts the power")
	powerSeed   = flag.Uint64("power-seed", 0, "of what it does and when; 0: a new one")
	powerDone   = flag.Int("power-changes", 3, "how many changes are waited for, at most, before the power is cut")
	powerWindow = flag.Duration("power-window", time.Second, "and how much longer, at most")
)

// TestPowerCutStore cuts the power of a machine that pulls, builds, commits, removes and
// prunes, again and again. After each start every image that was reported done is there and
// whole, what was being changed is the old or the new, the store mends itself, and when all
// is removed at the end, all space is given back.
func TestPowerCutStore(t *testing.T) {
	needsMachine(t)
	testenv.Root(t)
	seed := *powerSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("seed %d: repeat with -power-seed", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	dir := t.TempDir()
	files := powerFiles(t, dir)
	disk := Disk{Image: filepath.Join(dir, "disk"), Mount: "/data", Type: "ext4"}
	if err := NewDisk(disk.Image, disk.Type, 2<<30); err != nil {
		t.Fatal(err)
	}
	known := map[string]protocol.PowerImage{}
	for round := range *powerRounds {
		p := &powerRound{t: t, known: known, files: files, disk: disk, seed: random.Uint64()}
		p.work(round, random.IntN(*powerDone+1), time.Duration(random.Int64N(int64(*powerWindow))))
		if t.Failed() {
			return
		}
	}
	p := &powerRound{t: t, known: known, files: files, disk: disk}
	p.end()
}

// powerFiles are the programs and images of the machine.
func powerFiles(t *testing.T, dir string) map[string]string {
	t.Helper()
	root := moduleRoot(t)
	image := testenv.Image(t, "busybox")
	files := map[string]string{"/box.tar": image.Rootfs, "/box-archive.tar": image.Archive}
	for _, from := range []string{"./cmd/viv", "./cmd/viv-oci", "./cmd/viv-monitor", "./test/vm/power"} {
		name := filepath.Base(from)
		files["/opt/viv/"+name] = filepath.Join(dir, name)
		goBuild(t, root, "build", "-trimpath", "-ldflags=-s -w", "-o", files["/opt/viv/"+name], from)
	}
	return files
}

// powerRound is one start of the machine.
type powerRound struct {
	t     *testing.T
	known map[string]protocol.PowerImage
	files map[string]string
	disk  Disk
	seed  uint64
}

func (p *powerRound) boot(args ...string) *Machine {
	p.t.Helper()
	dir := p.t.TempDir()
	expect, err := json.Marshal(p.known)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "expect.json"), expect, 0o600)
	}
	if err != nil {
		p.t.Fatal(err)
	}
	files := maps.Clone(p.files)
	files[protocol.PowerExpect] = filepath.Join(dir, "expect.json")
	job := protocol.Job{Name: "power", Path: "/opt/viv/power", Args: args, Env: []string{"HOME=/root", "TMPDIR=/tmp"}}
	m, err := Boot(Config{Dir: dir, Files: files, Jobs: []protocol.Job{job}, Disks: []Disk{p.disk}, Timeout: 5 * time.Minute})
	if err != nil {
		p.t.Fatal(err)
	}
	return m
}

// work lets the machine work until some changes are done, and a moment longer, and cuts
// its power.
func (p *powerRound) work(round, changes int, wait time.Duration) {
	p.t.Helper()
	m := p.boot(fmt.Sprintf("-seed=%d", p.seed))
	defer m.Close()
	var cut <-chan time.Time
	ready, done := false, 0
	for {
		select {
		case line, ok := <-m.lines:
			if !ok || line.Kind == protocol.End {
				p.t.Fatalf("round %d: the work ended by itself\n%s", round, m.Console())
			}
			switch p.take(round, m, line) {
			case protocol.PowerReady:
				ready = true
			case protocol.PowerDone:
				if ready {
					done++
				}
			}
			if ready && done >= changes && cut == nil {
				cut = time.After(wait)
			}
		case <-cut:
			if err := m.PowerCutAfter(func(line protocol.Line) { p.take(round, m, line) }); err != nil {
				p.t.Fatal(err)
			}
			p.t.Logf("round %d: the power was cut %v after %d changes", round, wait.Round(time.Millisecond), changes)
			return
		}
	}
}

// end looks for the last time, and removes everything.
func (p *powerRound) end() {
	p.t.Helper()
	m := p.boot("-end")
	defer m.Close()
	ready, code := false, -1
	for line := range m.lines {
		ready = p.take(-1, m, line) == protocol.PowerReady || ready
		if line.Kind == protocol.End {
			code = line.Code
		}
	}
	if !ready || code != 0 {
		p.t.Errorf("the last look ended with status %d\n%s", code, m.Console())
	}
}

// take notes what a line says, and gives its kind.
func (p *powerRound) take(round int, m *Machine, line protocol.Line) string {
	p.t.Helper()
	switch line.Kind {
	case protocol.Failed:
		p.t.Fatalf("round %d: %s\n%s", round, line.Text, m.Console())
	case protocol.Output:
	default:
		return ""
	}
	var l protocol.PowerLine
	if err := json.Unmarshal([]byte(line.Text), &l); err != nil {
		p.t.Errorf("round %d: the program says %q", round, line.Text)
		return ""
	}
	if l.Op == protocol.PowerBad {
		p.t.Errorf("round %d: %s", round, l.Text)
	}
	if l.Name != "" {
		p.known[l.Name] = p.known[l.Name].After(l)
	}
	return l.Op
}
