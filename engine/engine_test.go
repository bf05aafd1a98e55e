package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vivarium/bundle"
	"vivarium/layer"
	"vivarium/monitor/client"
	"vivarium/monitor/wire"
	"vivarium/network"
)

// newEngine opens an engine in directories of the test's own. It starts nothing.
func newEngine(t *testing.T) *Engine {
	t.Helper()
	dir := t.TempDir()
	e, err := Open(dir+"/root", dir+"/state")
	if err != nil {
		t.Fatal(err)
	}
	e.firstSinceBoot = false
	e.Notice = func(msg string) { t.Log("notice:", msg) }
	return e
}

// addContainer commits a record as a run does, and leaves no marker.
func addContainer(t *testing.T, e *Engine, name string, change func(*Container)) *Container {
	t.Helper()
	id, err := newID()
	if err != nil {
		t.Fatal(err)
	}
	c := &Container{ID: id, Created: time.Now(), Image: "busybox", ImageID: "sha256:" + strings.Repeat("ab", 32), Path: "sh"}
	if change != nil {
		change(c)
	}
	id = c.ID
	fl, err := e.takeFlight(t.Context(), id, "")
	if err != nil {
		t.Fatal(err)
	}
	if c.Name, err = e.reserveName(name, fl); err != nil {
		t.Fatal(err)
	}
	dir := e.containerDir(id)
	for _, d := range []string{dir, dir + "/upper", dir + "/work", e.runDir(id)} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := writeRecord(dir, c); err != nil {
		t.Fatal(err)
	}
	fl.land()
	return c
}

func setStatus(t *testing.T, e *Engine, c *Container, st wire.Status) {
	t.Helper()
	if err := client.WriteStatus(e.containerDir(c.ID), st); err != nil {
		t.Fatal(err)
	}
}

func TestOpenRefusesAnotherFormat(t *testing.T) {
	e := newEngine(t)
	if err := os.WriteFile(e.Root+"/version", []byte("2\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(e.Root, e.State); !errors.Is(err, ErrUnsupported) {
		t.Errorf("a store of format 2: %v", err)
	}
	if _, err := Open("relative", e.State); !errors.Is(err, ErrInvalid) {
		t.Errorf("a relative root: %v", err)
	}
}

func TestCheckName(t *testing.T) {
	for _, name := range []string{"ab", "a.b", "A_b-c", "0x", strings.Repeat("a", 255)} {
		if err := checkName(name); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
	for _, name := range []string{"", "a", ".a", "-a", "a/b", "..", "a b", "a\n", "ä1", strings.Repeat("a", 256)} {
		if err := checkName(name); !errors.Is(err, ErrInvalid) {
			t.Errorf("%q is taken: %v", name, err)
		}
	}
	for attempt := range 100 {
		if name := randomName(attempt); checkName(name) != nil {
			t.Errorf("random name %q", name)
		}
	}
}

func TestNameConflict(t *testing.T) {
	e := newEngine(t)
	c := addContainer(t, e, "web", nil)
	fl, err := e.takeFlight(t.Context(), strings.Repeat("0", 64), "")
	if err != nil {
		t.Fatal(err)
	}
	defer fl.land()
	_, err = e.reserveName("/web", fl)
	want := fmt.Sprintf(`Conflict. The container name "/web" is already in use by container %q. `+
		`You have to remove (or rename) that container to be able to reuse that name.`, c.ID)
	if !errors.Is(err, ErrNameInUse) || err.Error() != want {
		t.Errorf("got %v\nwant %s", err, want)
	}
}

// TestNameOfNobody wants a name whose container is gone to be free, for exactly
// one of many that want it.
func TestNameOfNobody(t *testing.T) {
	e := newEngine(t)
	if err := os.Symlink(strings.Repeat("d", 64), e.nameLink("web")); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	var got []string
	for range 32 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			id, err := newID()
			if err != nil {
				t.Error(err)
				return
			}
			fl, err := e.takeFlight(context.Background(), id, "web")
			if err != nil {
				t.Error(err)
				return
			}
			t.Cleanup(fl.leave)
			_, err = e.reserveName("web", fl)
			if err == nil {
				mu.Lock()
				got = append(got, id)
				mu.Unlock()
			} else if !errors.Is(err, ErrNameInUse) {
				t.Error(err)
			}
		}()
	}
	wg.Wait()
	holder, err := os.Readlink(e.nameLink("web"))
	if err != nil || len(got) != 1 || got[0] != holder {
		t.Errorf("the name went to %q (%v), and %v think they have it", holder, err, got)
	}
}

func TestResolve(t *testing.T) {
	e := newEngine(t)
	ids := map[string]string{"one": "aaaa" + strings.Repeat("0", 60), "two": "aaab" + strings.Repeat("0", 60), "aaaa0": "cccc" + strings.Repeat("0", 60)}
	for name, id := range ids {
		addContainer(t, e, name, func(c *Container) { c.ID = id })
	}
	for _, tc := range []struct {
		ref, id string
		err     error
	}{
		{"one", ids["one"], nil}, {"/one", ids["one"], nil}, {ids["two"], ids["two"], nil}, {"aaab", ids["two"], nil},
		{"aaa", "", ErrAmbiguous}, {"aaaa0", ids["aaaa0"], nil}, // a name goes before the beginning of an ID
		{"nobody", "", ErrNoSuchContainer}, {"", "", ErrNoSuchContainer}, {"../one", "", ErrNoSuchContainer}, {"dddd", "", ErrNoSuchContainer},
		{strings.Repeat("a", 65), "", ErrNoSuchContainer},
	} {
		id, err := e.resolveID(tc.ref)
		if id != tc.id || !errors.Is(err, tc.err) {
			t.Errorf("%q: %q, %v; want %q, %v", tc.ref, id, err, tc.id, tc.err)
		}
	}
	if _, err := e.Container("nobody"); err == nil || err.Error() != "No such container: nobody" {
		t.Errorf("%v", err)
	}
}

func TestRename(t *testing.T) {
	e := newEngine(t)
	c := addContainer(t, e, "old", nil)
	other := addContainer(t, e, "taken", nil)
	if err := e.Rename(t.Context(), "old", "taken"); !errors.Is(err, ErrNameInUse) {
		t.Errorf("to a taken name: %v", err)
	}
	if err := e.Rename(t.Context(), "old", "new"); err != nil {
		t.Fatal(err)
	}
	if got, err := e.Container("new"); err != nil || got.ID != c.ID || got.Name != "new" {
		t.Errorf("new: %+v, %v", got, err)
	}
	if _, err := e.Container("old"); !errors.Is(err, ErrNoSuchContainer) {
		t.Errorf("old: %v", err)
	}
	if got, err := e.Container("taken"); err != nil || got.ID != other.ID {
		t.Errorf("taken: %v", err)
	}
}

func TestRemove(t *testing.T) {
	e := newEngine(t)
	c := addContainer(t, e, "gone", nil)
	if err := e.Remove(t.Context(), "gone", RemoveOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{e.containerDir(c.ID), e.runDir(c.ID), e.nameLink("gone"), e.removedDir(c.ID), e.flightsDir() + "/" + c.ID} {
		if unix.Access(p, unix.F_OK) == nil {
			t.Errorf("%s is left", p)
		}
	}
	if err := e.Remove(t.Context(), "gone", RemoveOptions{}); !errors.Is(err, ErrNoSuchContainer) {
		t.Errorf("again: %v", err)
	}
}

// left lists what is below the engine's directories beside what an empty one has.
func left(t *testing.T, e *Engine) []string {
	t.Helper()
	var list []string
	for _, dir := range []string{e.Root + "/containers", e.Root + "/names", e.Root + "/tmp", e.State + "/containers", e.flightsDir()} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, ent := range entries {
			list = append(list, filepath.Join(dir, ent.Name()))
		}
	}
	return list
}

// TestSweep cuts the making of a container off at each of its steps.
func TestSweep(t *testing.T) {
	const steps = 6
	for cut := range steps + 1 {
		e := newEngine(t)
		id, err := newID()
		if err != nil {
			t.Fatal(err)
		}
		c := &Container{ID: id, Name: "half", Created: time.Now()}
		c.Options.HostConfig.AutoRemove = true
		var fl *flight
		for i, step := range []func() error{
			func() (err error) { fl, err = e.takeFlight(t.Context(), id, "half"); return err },
			func() error { return e.linkName("half", id) },
			func() error { return os.Mkdir(e.stagingDir(id), 0o700) },
			func() error { return writeRecord(e.stagingDir(id), c) },
			func() error { return os.Mkdir(e.runDir(id), 0o700) },
			func() error { return os.Rename(e.stagingDir(id), e.containerDir(id)) },
		} {
			if i == cut {
				break
			}
			if err := step(); err != nil {
				t.Fatal(err)
			}
		}
		if err := e.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
		if cut > 0 && unix.Access(e.flightsDir()+"/"+id, unix.F_OK) != nil {
			t.Errorf("cut %d: a sweep took what a living command holds", cut)
		}
		fl.leave() // the command dies
		if err := e.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
		if l := left(t, e); len(l) > 0 {
			t.Errorf("cut %d: left %q", cut, l)
		}
	}
}

// TestSweepOfARemoval cuts a removal off after the container was moved away.
func TestSweepOfARemoval(t *testing.T) {
	e := newEngine(t)
	c := addContainer(t, e, "half", nil)
	fl, err := e.takeFlight(t.Context(), c.ID, "half")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(e.containerDir(c.ID), e.removedDir(c.ID)); err != nil {
		t.Fatal(err)
	}
	fl.leave()
	if err := e.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if l := left(t, e); len(l) > 0 {
		t.Errorf("left %q", l)
	}
}

// TestEndedUnseen has a status that says "running" of a process that is gone.
func TestEndedUnseen(t *testing.T) {
	e := newEngine(t)
	c := addContainer(t, e, "ghost", nil)
	setStatus(t, e, c, wire.Status{State: wire.Running, Pid: 1 << 22, StartTicks: 1, MonitorPid: 1 << 22, BootID: client.BootID(), StartedAt: 1})
	list, err := e.List(t.Context(), ListOptions{All: true})
	if err != nil || len(list) != 1 {
		t.Fatalf("%v, %v", list, err)
	}
	if st := list[0].State; st.State != wire.Exited || st.ExitCode != exitUnknown {
		t.Errorf("state %+v", st)
	}
	if st, err := client.ReadStatus(e.containerDir(c.ID)); err != nil || st.State != wire.Exited {
		t.Errorf("on disk: %+v, %v", st, err)
	}
}

func TestCheckFindsAndMends(t *testing.T) {
	e := newEngine(t)
	if err := os.Symlink(strings.Repeat("d", 64), e.nameLink("nobody")); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{e.stagingDir(strings.Repeat("e", 64)), e.removedDir(strings.Repeat("e", 64)), e.runDir(strings.Repeat("f", 64))} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	found, err := e.Check(t.Context(), false)
	if err != nil || len(found) != 4 {
		t.Fatalf("found %+v, %v; want 4", found, err)
	}
	if l := left(t, e); len(l) != 4 {
		t.Errorf("a check without repair changed something: %q", l)
	}
	found, err = e.Check(t.Context(), true)
	if err != nil || len(found) != 4 || slices.ContainsFunc(found, func(f Finding) bool { return !f.Repaired }) {
		t.Errorf("mended %+v, %v", found, err)
	}
	if found, err = e.Check(t.Context(), true); err != nil || len(found) != 0 {
		t.Errorf("again: %+v, %v", found, err)
	}
}

func TestListFilters(t *testing.T) {
	e := newEngine(t)
	base := time.Now().Add(-time.Hour)
	made := map[string]*Container{}
	for i, name := range []string{"alpha", "beta", "gamma"} {
		made[name] = addContainer(t, e, name, func(c *Container) {
			c.Created = base.Add(time.Duration(i) * time.Minute)
			c.Options.Config.Labels = map[string]string{"tier": name, "all": ""}
			c.Options.HostConfig.NetworkMode = "none"
			c.Mounts = []MountPoint{{Type: bundle.MountVolume, Name: "vol-" + name, Destination: "/data"}}
		})
	}
	setStatus(t, e, made["beta"], wire.Status{State: wire.Exited, ExitCode: 3})
	for _, tc := range []struct {
		filters []string
		want    string
	}{
		{nil, "gamma beta alpha"},
		{[]string{"name=a$"}, "gamma beta alpha"},
		{[]string{"name=^/?alpha$"}, "alpha"},
		{[]string{"name=alpha", "name=beta"}, "beta alpha"},
		{[]string{"id=" + made["beta"].ID[:10]}, "beta"},
		{[]string{"label=tier=beta"}, "beta"},
		{[]string{"label=tier", "label=all"}, "gamma beta alpha"},
		{[]string{"label=tier=beta", "label=tier=alpha"}, ""},
		{[]string{"status=exited"}, "beta"},
		{[]string{"status=created", "status=exited"}, "gamma beta alpha"},
		{[]string{"exited=3"}, "beta"},
		{[]string{"exited=0"}, ""},
		{[]string{"before=gamma"}, "beta alpha"},
		{[]string{"since=alpha"}, "gamma beta"},
		{[]string{"ancestor=busybox"}, "gamma beta alpha"},
		{[]string{"ancestor=debian"}, ""},
		{[]string{"volume=vol-alpha"}, "alpha"},
		{[]string{"volume=/data"}, "gamma beta alpha"},
		{[]string{"network=none"}, "gamma beta alpha"},
		{[]string{"network=bridge"}, ""},
		{[]string{"publish=80"}, ""},
		{[]string{"health=none"}, "gamma beta alpha"},
	} {
		f, err := ParseFilters(tc.filters)
		if err != nil {
			t.Fatal(err)
		}
		list, err := e.List(t.Context(), ListOptions{All: true, Filters: f})
		if err != nil {
			t.Errorf("%q: %v", tc.filters, err)
		}
		var names []string
		for _, s := range list {
			names = append(names, s.Container.Name)
		}
		if got := strings.Join(names, " "); got != tc.want {
			t.Errorf("%q: %q, want %q", tc.filters, got, tc.want)
		}
	}
	for _, bad := range []string{"nonsense=1", "status=asleep", "exited=x", "health=fine"} {
		f, err := ParseFilters([]string{bad})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := e.List(t.Context(), ListOptions{Filters: f}); !errors.Is(err, ErrInvalid) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if _, err := ParseFilters([]string{"novalue"}); !errors.Is(err, ErrInvalid) {
		t.Errorf("a filter without value: %v", err)
	}
	if list, err := e.List(t.Context(), ListOptions{}); err != nil || len(list) != 0 {
		t.Errorf("running ones: %v, %v", list, err)
	}
	if list, err := e.List(t.Context(), ListOptions{Last: 2}); err != nil || len(list) != 2 || list[0].Container.Name != "gamma" {
		t.Errorf("the last two: %v, %v", list, err)
	}
}

func TestMatchPort(t *testing.T) {
	ports := []network.PortMapping{{HostPort: 8080, ContainerPort: 80, Protocol: network.TCP}, {ContainerPort: 53, Protocol: network.UDP}}
	for _, tc := range []struct {
		want      string
		published bool
		ok        bool
	}{
		{"8080", true, true}, {"8080/tcp", true, true}, {"8080/udp", true, false}, {"80", true, false}, {"80", false, true},
		{"8000-8100", true, true}, {"53/udp", false, true}, {"53/udp", true, false}, {"x", true, false},
	} {
		if got := matchPort(tc.want, ports, tc.published); got != tc.ok {
			t.Errorf("%q published %v: %v", tc.want, tc.published, got)
		}
	}
}

func TestParseTime(t *testing.T) {
	now := time.Date(2026, 5, 6, 7, 8, 9, 0, time.UTC)
	for _, tc := range []struct {
		in   string
		want time.Time
	}{
		{"10m", now.Add(-10 * time.Minute)},
		{"1h30m", now.Add(-90 * time.Minute)},
		{"1136073600", time.Unix(1136073600, 0)},
		{"1136073600.5", time.Unix(1136073600, 500000000)},
		{"1136073600.000000001", time.Unix(1136073600, 1)},
		{"2006-01-02T15:04:05Z", time.Date(2006, 1, 2, 15, 4, 5, 0, time.UTC)},
		{"2006-01-02T15:04:05.123456789+02:00", time.Date(2006, 1, 2, 13, 4, 5, 123456789, time.UTC)},
		{"2006-01-02", time.Date(2006, 1, 2, 0, 0, 0, 0, time.Local)},
		{"2006-01-02T15:04", time.Date(2006, 1, 2, 15, 4, 0, 0, time.Local)},
	} {
		if got, err := ParseTime(tc.in, now); err != nil || !got.Equal(tc.want) {
			t.Errorf("%q: %v, %v; want %v", tc.in, got, err, tc.want)
		}
	}
	for _, in := range []string{"", "soon", "12:00", "2006-13-01", "1.2.3"} {
		if got, err := ParseTime(in, now); err == nil {
			t.Errorf("%q is taken for %v", in, got)
		}
	}
}

func TestParseSignal(t *testing.T) {
	for in, want := range map[string]int{"9": 9, "KILL": 9, "SIGKILL": 9, "sigterm": 15, "RTMIN": 34, "SIGRTMIN+3": 37, "RTMAX-1": 63, "64": 64} {
		if got, err := ParseSignal(in); err != nil || int(got) != want {
			t.Errorf("%q: %d, %v", in, got, err)
		}
	}
	for _, in := range []string{"", "0", "65", "-1", "NOPE", "RTMIN+40", "RTMAX+1", "SIGSIGKILL"} {
		if got, err := ParseSignal(in); err == nil {
			t.Errorf("%q is taken for %d", in, got)
		}
	}
}

func TestForget(t *testing.T) {
	in := []layer.Change{
		{Kind: layer.Modified, Path: "/etc"}, {Kind: layer.Added, Path: "/etc/hosts"},
		{Kind: layer.Modified, Path: "/var"}, {Kind: layer.Modified, Path: "/var-x"}, {Kind: layer.Modified, Path: "/var/lib"},
		{Kind: layer.Deleted, Path: "/var/lib/viv"}, {Kind: layer.Added, Path: "/var/mine"},
	}
	got := fmt.Sprint(forget(in, []string{"/etc/hosts", "/var/lib/viv"}))
	if want := "[{C /var} {C /var-x} {A /var/mine}]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestVolumes(t *testing.T) {
	e := newEngine(t)
	v, err := e.VolumeCreate(t.Context(), VolumeOptions{Name: "data", Labels: map[string]string{"a": "b"}})
	if err != nil {
		t.Fatal(err)
	}
	if again, err := e.VolumeCreate(t.Context(), VolumeOptions{Name: "data"}); err != nil || !again.CreatedAt.Equal(v.CreatedAt) {
		t.Errorf("made again: %+v, %v", again, err)
	}
	for _, bad := range []string{"../x", "a/b", ".x"} {
		if _, err := e.VolumeCreate(t.Context(), VolumeOptions{Name: bad}); !errors.Is(err, ErrInvalid) {
			t.Errorf("name %q: %v", bad, err)
		}
		if _, err := e.VolumeInspect(t.Context(), bad); !errors.Is(err, ErrNoSuchVolume) {
			t.Errorf("inspect %q: %v", bad, err)
		}
	}
	c := addContainer(t, e, "user", func(c *Container) { c.Mounts = []MountPoint{{Type: bundle.MountVolume, Name: "data"}} })
	if err := e.VolumeRemove(t.Context(), "data", false); !errors.Is(err, ErrVolumeInUse) {
		t.Errorf("removed while %s has it: %v", c.Name, err)
	}
	if list, err := e.Volumes(t.Context(), Filters{"dangling": {"true"}}); err != nil || len(list) != 0 {
		t.Errorf("dangling: %v, %v", list, err)
	}
	if err := e.Remove(t.Context(), "user", RemoveOptions{Volumes: true}); err != nil {
		t.Fatal(err)
	}
	if _, err := e.VolumeInspect(t.Context(), "data"); err != nil {
		t.Errorf("rm -v took a volume with a name: %v", err)
	}
	if rep, err := e.VolumePrune(t.Context(), false, nil); err != nil || len(rep.Deleted) != 0 {
		t.Errorf("prune took a volume with a name: %v, %v", rep, err)
	}
	if rep, err := e.VolumePrune(t.Context(), true, nil); err != nil || len(rep.Deleted) != 1 {
		t.Errorf("prune --all: %v, %v", rep, err)
	}
}

func TestCIDFile(t *testing.T) {
	path := t.TempDir() + "/cid"
	r := &run{c: &Container{ID: "x"}}
	r.opt.HostConfig.ContainerIDFile = path
	if err := r.writeCIDFile(); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "x" {
		t.Errorf("%q, %v", b, err)
	}
	if err := r.writeCIDFile(); !errors.Is(err, ErrInvalid) {
		t.Errorf("over a file that is there: %v", err)
	}
}

func TestHosts(t *testing.T) {
	c := &Container{ID: strings.Repeat("a", 64)}
	c.Options.HostConfig.NetworkMode = "none"
	c.Options.HostConfig.ExtraHosts = []string{"db:192.0.2.7", "six:[2001:db8::1]"}
	r := &run{c: c}
	got, err := r.hosts()
	if err != nil || !strings.HasPrefix(string(got), "127.0.0.1\tlocalhost\n") || !strings.HasSuffix(string(got), "ip6-allrouters\n192.0.2.7\tdb\n2001:db8::1\tsix\n") {
		t.Errorf("%q, %v", got, err)
	}
	c.Options.HostConfig.ExtraHosts = []string{"up:host-gateway"}
	if _, err := r.hosts(); !errors.Is(err, ErrInvalid) {
		t.Errorf("host-gateway without a gateway: %v", err)
	}
}

// TestOpenExisting makes nothing where nothing is: a container's end may be told
// after everything has been removed.
func TestOpenExisting(t *testing.T) {
	dir := t.TempDir()
	for _, missing := range []string{"root", "state"} {
		if e, err := OpenExisting(dir+"/root", dir+"/state"); e != nil || err != nil {
			t.Fatalf("without %s: %v, %v", missing, e, err)
		}
		if _, err := os.Stat(dir + "/" + missing); err == nil {
			t.Fatalf("%s was made", missing)
		}
		if missing == "root" {
			if _, err := Open(dir+"/root", dir+"/state"); err != nil {
				t.Fatal(err)
			}
			if err := os.RemoveAll(dir + "/state"); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := Open(dir+"/root", dir+"/state"); err != nil {
		t.Fatal(err)
	}
	if e, err := OpenExisting(dir+"/root", dir+"/state"); e == nil || err != nil {
		t.Errorf("what is there is not opened: %v, %v", e, err)
	}
}
