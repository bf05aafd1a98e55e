package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"vivarium/monitor/client"
	"vivarium/monitor/wire"
)

// Finding is one thing that is not as it should be.
type Finding struct {
	Object   string // what it is about: a container's ID, a file, a control group
	Problem  string
	Repaired bool
	Err      error // why it could not be mended
}

// Sweep removes what killed commands and monitors left. It costs one directory
// read when there is nothing. Call it off the critical path.
func (e *Engine) Sweep(ctx context.Context) error {
	if e.firstSinceBoot {
		e.firstSinceBoot = false
		return e.afterBoot(ctx)
	}
	ids, err := e.flights()
	if err != nil {
		return err
	}
	for _, id := range ids {
		if err := ctx.Err(); err != nil {
			return err
		}
		if f := e.sweepFlight(ctx, id, true); f != nil && f.Err != nil {
			e.notice("sweep of container %s: %v", short(id), f.Err)
		}
	}
	return nil
}

func (e *Engine) flights() ([]string, error) {
	d, err := os.Open(e.flightsDir())
	if err != nil {
		return nil, fmt.Errorf("list the runs in flight: %w", err)
	}
	defer d.Close()
	ids, err := d.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("list the runs in flight: %w", err)
	}
	return slices.DeleteFunc(ids, func(s string) bool { return !isID(s) }), nil
}

// sweepFlight looks at one marker, and mends what it stands for if nobody cares
// for it. Nil: all is well.
func (e *Engine) sweepFlight(ctx context.Context, id string, repair bool) *Finding {
	fl, name := e.abandoned(id)
	if fl == nil {
		return nil
	}
	f := &Finding{Object: id, Problem: "a run was cut off; its traces are left"}
	if !repair {
		fl.leave()
		return f
	}
	defer fl.leave()
	f.Err = e.sweepRun(ctx, id, name, fl)
	f.Repaired = f.Err == nil
	return f
}

func (e *Engine) sweepRun(ctx context.Context, id, name string, fl *flight) error {
	c, err := e.load(id)
	if errors.Is(err, os.ErrNotExist) {
		return e.sweepUnmade(id, name, fl)
	}
	if err != nil {
		return err
	}
	lock, err := e.lock(ctx, id)
	if errors.Is(err, ErrNoSuchContainer) {
		return e.sweepUnmade(id, name, fl)
	}
	if err != nil {
		return err
	}
	defer lock.Close()
	// A monitor that has just been told to start finds its lock taken and gives up.
	guard := e.guardMonitor(id)
	if guard != nil {
		defer guard.Close()
	}
	st, err := client.ReadStatus(e.containerDir(id))
	if err != nil {
		return err
	}
	process, monitor := client.Alive(st)
	if live(st) && monitor {
		return nil
	}
	if live(st) && process {
		if guard != nil {
			guard.Close() // the new monitor needs it
		}
		_, err := e.mendLocked(ctx, c)
		return err
	}
	if live(st) {
		_, err := e.mendLocked(ctx, c)
		return err
	}
	return e.afterEndLocked(c, st.ExitCode, nil)
}

// guardMonitor takes the lock that a monitor takes before it runs anything.
func (e *Engine) guardMonitor(id string) *os.File {
	f, err := os.OpenFile(e.monitorLock(id), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil // no run directory: a monitor cannot begin either
	}
	if flock(f, unix.LOCK_EX|unix.LOCK_NB) != nil {
		f.Close()
		return nil
	}
	return f
}

// sweepUnmade removes the traces of a container whose record never came to its place,
// or was being removed.
func (e *Engine) sweepUnmade(id, name string, fl *flight) error {
	c := &Container{ID: id, Name: name, Driver: driverUnknown}
	for _, dir := range []string{e.stagingDir(id), e.removedDir(id)} {
		if rec, err := readRecord(dir); err == nil {
			c = rec // it knows its volumes
		}
	}
	if err := e.wipe(c, true); err != nil {
		return err
	}
	fl.land()
	return nil
}

// afterBoot ends what says that it runs: State was gone, so nothing of ours does.
func (e *Engine) afterBoot(ctx context.Context) error {
	cs, err := e.all()
	if err != nil {
		return err
	}
	for _, c := range cs {
		if f := e.checkContainer(ctx, c, true); f != nil && f.Err != nil {
			e.notice("container %s: %v", c.Name, f.Err)
		}
	}
	for _, f := range e.checkStaging(true) {
		if f.Err != nil {
			e.notice("%s: %v", f.Object, f.Err)
		}
	}
	return nil
}

// Check looks at everything of the engine, and mends with repair what it can.
func (e *Engine) Check(ctx context.Context, repair bool) ([]Finding, error) {
	var list []Finding
	add := func(f *Finding) {
		if f != nil {
			list = append(list, *f)
		}
	}
	ids, err := e.flights()
	if err != nil {
		return nil, err
	}
	for _, id := range ids {
		add(e.sweepFlight(ctx, id, repair))
	}
	ids, err = e.ids()
	if err != nil {
		return nil, err
	}
	for _, id := range ids {
		c, err := e.load(id)
		if err != nil {
			add(e.checkRecord(id, err, repair))
			continue
		}
		add(e.checkContainer(ctx, c, repair))
	}
	list = append(list, e.checkNames(repair)...)
	list = append(list, e.checkStaging(repair)...)
	list = append(list, e.checkCgroups(repair)...)
	list = append(list, e.checkRunDirs(repair)...)
	more, err := e.checkNetwork(ctx, repair)
	list = append(list, more...)
	if err != nil {
		return list, err
	}
	more, err = e.checkStore(ctx, repair)
	return append(list, more...), err
}

// checkContainer finds a status that is not so any more, and --rm containers that stayed.
func (e *Engine) checkContainer(ctx context.Context, c *Container, repair bool) *Finding {
	st, err := client.ReadStatus(e.containerDir(c.ID))
	if err != nil {
		return &Finding{Object: c.ID, Problem: "its status cannot be read", Err: err}
	}
	process, monitor := client.Alive(st)
	if e.inFlight(c.ID) || live(st) && monitor {
		return nil
	}
	f := &Finding{Object: c.ID}
	switch {
	case live(st) && process:
		f.Problem = "its monitor has died"
	case live(st):
		f.Problem = "it is said to be " + st.State + " and has ended"
	case st.State != wire.Created && c.AutoRemove():
		f.Problem = "it has ended and was to be removed"
	default:
		return nil
	}
	if repair {
		f.Err = e.mendOrRemove(ctx, c)
		f.Repaired = f.Err == nil
	}
	return f
}

func (e *Engine) mendOrRemove(ctx context.Context, c *Container) error {
	lock, err := e.lock(ctx, c.ID)
	if errors.Is(err, ErrNoSuchContainer) {
		return nil
	}
	if err != nil {
		return err
	}
	defer lock.Close()
	st, err := e.mendLocked(ctx, c)
	if err != nil || live(st) {
		return err
	}
	if err := e.wipe(c, c.AutoRemove()); err != nil {
		return err
	}
	os.Remove(e.flightsDir() + "/" + c.ID)
	return nil
}

// checkRecord puts a container whose record cannot be read out of the way.
func (e *Engine) checkRecord(id string, err error, repair bool) *Finding {
	if e.inFlight(id) || errors.Is(err, os.ErrNotExist) && !e.holdsName(id) {
		return nil
	}
	f := &Finding{Object: id, Problem: fmt.Sprintf("its record is damaged (%v)", err)}
	if repair {
		f.Err = e.wipe(&Container{ID: id, Driver: driverUnknown}, true)
		f.Repaired = f.Err == nil
	}
	return f
}

func (e *Engine) checkNames(repair bool) []Finding {
	var list []Finding
	entries, err := os.ReadDir(e.Root + "/names")
	if err != nil {
		return []Finding{{Object: e.Root + "/names", Problem: "cannot be listed", Err: err}}
	}
	for _, ent := range entries {
		id, err := os.Readlink(e.nameLink(ent.Name()))
		if err == nil && e.holdsName(id) {
			continue
		}
		f := Finding{Object: "name " + ent.Name(), Problem: "is reserved for no container"}
		if repair {
			f.Err = e.releaseName(ent.Name(), id)
			f.Repaired = f.Err == nil
		}
		list = append(list, f)
	}
	return list
}

// stagingAge is how old a volume's or file's staging must be to count as left:
// these have no marker, and take moments.
const stagingAge = time.Hour

// checkStaging finds what killed commands left in <root>/tmp. Other rooms keep
// their own staging there, which is theirs to sweep.
func (e *Engine) checkStaging(repair bool) []Finding {
	var list []Finding
	entries, err := os.ReadDir(e.Root + "/tmp")
	if err != nil {
		return []Finding{{Object: e.Root + "/tmp", Problem: "cannot be listed", Err: err}}
	}
	for _, ent := range entries {
		kind, id, _ := strings.Cut(ent.Name(), "-")
		switch kind {
		case "c", "rm":
			if e.inFlight(id) {
				continue
			}
		case "v":
			if info, err := ent.Info(); err != nil || time.Since(info.ModTime()) < stagingAge {
				continue
			}
		case "probe":
			if lockBusy(filepath.Join(e.Root, "tmp", ent.Name())) {
				continue
			}
		default:
			continue
		}
		path := filepath.Join(e.Root, "tmp", ent.Name())
		f := Finding{Object: path, Problem: "was left by a killed command"}
		if repair {
			f.Err = os.RemoveAll(path)
			f.Repaired = f.Err == nil
		}
		list = append(list, f)
	}
	return list
}

// checkRunDirs finds run directories of containers that are not there.
func (e *Engine) checkRunDirs(repair bool) []Finding {
	var list []Finding
	entries, err := os.ReadDir(e.State + "/containers")
	if err != nil {
		return []Finding{{Object: e.State + "/containers", Problem: "cannot be listed", Err: err}}
	}
	for _, ent := range entries {
		id := ent.Name()
		if !isID(id) || e.hasRecord(id) || e.inFlight(id) || lockBusy(e.monitorLock(id)) {
			continue
		}
		f := Finding{Object: e.runDir(id), Problem: "belongs to no container"}
		if repair {
			if f.Err = e.disunite(&Container{ID: id, Driver: driverUnknown}); f.Err == nil {
				f.Err = os.RemoveAll(e.runDir(id))
			}
			f.Repaired = f.Err == nil
		}
		list = append(list, f)
	}
	return list
}
