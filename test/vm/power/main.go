// Command power works on a store in a test machine until somebody takes its power away:
// it pulls, builds, commits, removes and prunes, and tells on standard output what it
// begins and what it has been told to be done. Before that it looks at what the last power
// cut has left. The host's side is TestPowerCutStore.
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"vivarium/test/vm/protocol"
)

const (
	root  = "/data/viv"
	state = "/run/viv"
	box   = "box"
)

func main() {
	seed := flag.Uint64("seed", 1, "of what is done, and in which order")
	end := flag.Bool("end", false, "remove everything after the look, and see that nothing stays")
	flag.Parse()
	p := &program{}
	if err := p.run(*seed, *end); err != nil {
		p.tell(protocol.PowerLine{Op: protocol.PowerBad, Text: err.Error()})
		os.Exit(1)
	}
}

type program struct{ mu sync.Mutex }

// tell writes one line at a time.
func (p *program) tell(l protocol.PowerLine) {
	p.mu.Lock()
	defer p.mu.Unlock()
	b, err := json.Marshal(l)
	if err != nil {
		panic(err)
	}
	fmt.Printf("%s\n", b)
}

func (p *program) run(seed uint64, end bool) error {
	var expect map[string]protocol.PowerImage
	b, err := os.ReadFile(protocol.PowerExpect)
	if err == nil {
		err = json.Unmarshal(b, &expect)
	}
	if err != nil {
		return fmt.Errorf("read what there should be: %w", err)
	}
	p.look(expect)
	if end {
		p.tell(protocol.PowerLine{Op: protocol.PowerReady})
		return p.removeAll()
	}
	if _, err := id(box); err != nil {
		if err := p.make(box, func() (string, error) { return viv("import", "/box.tar", box) }); err != nil {
			return err
		}
	}
	reg, err := newRegistry()
	if err != nil {
		return err
	}
	p.tell(protocol.PowerLine{Op: protocol.PowerReady})
	ended := make(chan error, 2)
	go func() { ended <- p.pulls(reg, rand.New(rand.NewPCG(seed, 1))) }()
	go func() { ended <- p.builds(rand.New(rand.NewPCG(seed, 2))) }()
	return <-ended
}

// bad says that something is not as it should be after a power cut.
func (p *program) bad(format string, args ...any) {
	p.tell(protocol.PowerLine{Op: protocol.PowerBad, Text: fmt.Sprintf(format, args...)})
}

// look compares the store with what was told, and has it checked.
func (p *program) look(expect map[string]protocol.PowerImage) {
	for name, want := range expect {
		got, err := id(name)
		switch {
		case err != nil && want.MayBe(""):
			continue
		case err != nil:
			p.bad("image %s should be %s: %v", name, want, err)
			continue
		case !want.MayBe(got):
			p.bad("image %s is %s, and should be %s", name, got, want)
		}
		p.whole(name)
	}
	p.noneHalf()
	// What a process left that is gone is found here once, and nothing else.
	for _, dry := range []bool{false, true} {
		if err := p.check(dry); err != nil {
			p.bad("%v", err)
		}
	}
	if left, _ := filepath.Glob(root + "/tmp/*"); len(left) > 0 {
		p.bad("left after the check: %v", left)
	}
}

// check has the store checked: nothing that was made is damaged, and what was being made
// is mended the first time.
func (p *program) check(again bool) error {
	args := []string{"system", "check", "--format", "json"}
	if again {
		args = append(args, "--dry-run")
	}
	out, err := viv(args...)
	if err != nil && !again || out == "" {
		return err
	}
	var found []struct{ Object, Problem string }
	if err := json.Unmarshal([]byte(out), &found); err != nil {
		return fmt.Errorf("read what system check says: %w: %s", err, out)
	}
	for _, f := range found {
		left := f.Problem == "left by a process that is gone" || f.Problem == "nothing needs it"
		if strings.HasPrefix(f.Problem, "its record is damaged") && !again {
			continue // of a container: a run does not wait for the disk, and no image is lost
		}
		kind, _, _ := strings.Cut(f.Object, " ")
		if again || !left && slices.Contains([]string{"blob", "layer", "init", "index", "file"}, kind) || strings.Contains(f.Problem, "damaged") {
			p.bad("system check (again: %v): %s: %s", again, f.Object, f.Problem)
		}
	}
	return nil
}

// whole runs an image, which has a list of digests of its files.
func (p *program) whole(name string) {
	if name == box {
		if _, err := viv("run", "--rm", "--network", "none", name, "true"); err != nil {
			p.bad("image %s does not run: %v", name, err)
		}
		return
	}
	out, err := viv("run", "--rm", "--network", "none", name, "sh", "-c", "sha256sum -c /SUMS && wc -l </SUMS")
	if err != nil {
		p.bad("image %s is damaged: %v: %s", name, err, out)
	}
}

// noneHalf sees that whatever is listed is there.
func (p *program) noneHalf() {
	out, err := viv("images", "-a", "-q", "--no-trunc")
	if err != nil {
		p.bad("images: %v", err)
	}
	for i := range strings.FieldsSeq(out) {
		if _, err := id(i); err != nil {
			p.bad("image %s is listed, and not there: %v", i, err)
		}
	}
}

// removeAll wants all space back.
func (p *program) removeAll() error {
	out, err := viv("images", "-a", "-q", "--no-trunc")
	if err != nil {
		return err
	}
	if ids := strings.Fields(out); len(ids) > 0 {
		slices.Sort(ids)
		if _, err := viv(append([]string{"rmi", "-f"}, slices.Compact(ids)...)...); err != nil {
			return err
		}
	}
	if _, err := viv("system", "prune", "-f", "--all", "--volumes"); err != nil {
		return err
	}
	for _, dir := range []string{"images/blobs/sha256", "layers/sha256", "layers/chain", "layers/init", "build/steps", "containers", "tmp", "partial"} {
		list, err := os.ReadDir(filepath.Join(root, dir))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		for _, e := range list {
			p.bad("%s/%s stays when all is removed", dir, e.Name())
		}
	}
	return nil
}

// make tells of an image that is being made, and of the one that was.
func (p *program) make(name string, do func() (string, error)) error {
	p.tell(protocol.PowerLine{Op: protocol.PowerBegin, Name: name, ID: protocol.PowerAny})
	if _, err := do(); err != nil {
		return err
	}
	made, err := id(name)
	if err != nil {
		return fmt.Errorf("image %s was reported done: %w", name, err)
	}
	p.tell(protocol.PowerLine{Op: protocol.PowerDone, Name: name, ID: made})
	return nil
}

func (p *program) remove(name string) error {
	if _, err := id(name); err != nil {
		return nil
	}
	p.tell(protocol.PowerLine{Op: protocol.PowerBegin, Name: name})
	if _, err := viv("rmi", name); err != nil {
		return err
	}
	p.tell(protocol.PowerLine{Op: protocol.PowerDone, Name: name})
	return nil
}

// pulls pulls and removes, and prunes what that leaves.
func (p *program) pulls(reg *registryServer, r *rand.Rand) error {
	for {
		name := reg.name(r.IntN(3))
		var err error
		switch r.IntN(8) {
		case 0:
			err = p.remove(name)
		case 1:
			_, err = viv("image", "prune", "-f")
		case 2:
			_, err = viv("builder", "prune", "-f")
		default:
			if err = reg.publish(name, r); err == nil {
				err = p.make(name, func() (string, error) { return viv("pull", "-q", name) })
			}
		}
		if err != nil {
			return err
		}
	}
}

// builds builds and commits.
func (p *program) builds(r *rand.Rand) error {
	for n := 0; ; n++ {
		dir := fmt.Sprintf("/tmp/context-%d", n)
		if err := writeContext(dir, r); err != nil {
			return err
		}
		name := fmt.Sprintf("built-%d", n%2)
		err := p.make(name, func() (string, error) { return viv("build", "-q", "--network", "none", "-t", name, dir) })
		if err != nil {
			return err
		}
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
		if r.IntN(2) == 0 {
			err = p.commit(fmt.Sprintf("work-%x", r.Uint64())) // one of another start may be there
		}
		if err != nil {
			return err
		}
	}
}

func (p *program) commit(container string) error {
	const change = "head -c 300000 /dev/urandom >/random && sha256sum /random >/SUMS"
	if _, err := viv("run", "--name", container, "--network", "none", box, "sh", "-c", change); err != nil {
		return err
	}
	if err := p.make("committed", func() (string, error) { return viv("commit", container, "committed") }); err != nil {
		return err
	}
	_, err := viv("rm", container)
	return err
}

func writeContext(dir string, r *rand.Rand) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	files := map[string][]byte{
		"Dockerfile": []byte("FROM box\nCOPY data /data\nRUN head -c 100000 /dev/urandom >/made\nRUN sha256sum /data/* /made >/SUMS\n"),
	}
	if err := os.Mkdir(dir+"/data", 0o755); err != nil {
		return err
	}
	for i := range 20 {
		files[fmt.Sprintf("data/%d", i)] = randomBytes(r, 1+r.IntN(30_000))
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// id is the ID of an image.
func id(name string) (string, error) {
	return viv("inspect", "--type", "image", "-f", "{{.Id}}", name)
}

// viv runs the engine, and gives what it prints.
func viv(args ...string) (string, error) {
	cmd := exec.Command("/opt/viv/viv", append([]string{"--root", root, "--state", state}, args...)...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return strings.TrimSpace(out.String()), fmt.Errorf("viv %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(errs.String()))
	}
	return strings.TrimSpace(out.String()), nil
}
