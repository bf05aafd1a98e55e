package plan

import (
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// processAttributes sets what the kernel keeps for a process beside its ids:
// scheduling, I/O priority, execution domain.
func (c *compiler) processAttributes() {
	if s := c.spec.Process.Scheduler; s != nil {
		c.scheduler(s)
	}
	if p := c.spec.Process.IOPriority; p != nil {
		c.ioPriority(p)
	}
	if p := c.spec.Linux.Personality; p != nil {
		c.personality(p)
	}
	if m := c.spec.Linux.MemoryPolicy; m != nil {
		c.memoryPolicy(m)
	}
}

var schedPolicies = map[specs.LinuxSchedulerPolicy]uint32{
	specs.SchedOther: 0, specs.SchedFIFO: 1, specs.SchedRR: 2, specs.SchedBatch: 3,
	specs.SchedISO: 4, specs.SchedIdle: 5, specs.SchedDeadline: 6,
}

var schedFlags = map[specs.LinuxSchedulerFlag]uint64{
	specs.SchedFlagResetOnFork: 0x01, specs.SchedFlagReclaim: 0x02, specs.SchedFlagDLOverrun: 0x04,
	specs.SchedFlagKeepPolicy: 0x08, specs.SchedFlagKeepParams: 0x10,
	specs.SchedFlagUtilClampMin: 0x20, specs.SchedFlagUtilClampMax: 0x40,
}

func (c *compiler) scheduler(s *specs.Scheduler) {
	b := c.b
	policy, ok := schedPolicies[s.Policy]
	if !ok {
		b.fail(errorf("scheduler policy %q is not known", s.Policy))
		return
	}
	var flags uint64
	for _, f := range s.Flags {
		bit, ok := schedFlags[f]
		if !ok {
			b.fail(errorf("scheduler flag %q is not known", f))
			return
		}
		flags |= bit
	}
	b.begin("scheduler", "set the scheduling policy "+string(s.Policy))
	// struct sched_attr, 48 bytes (sched_setattr(2)).
	attr := b.words(48|uint64(policy)<<32, flags, uint64(uint32(s.Nice))|uint64(uint32(s.Priority))<<32, s.Runtime, s.Deadline, s.Period)
	b.do(unix.SYS_SCHED_SETATTR, n(0), ptr(attr), n(0))
}

func (c *compiler) ioPriority(p *specs.LinuxIOPriority) {
	class := map[specs.IOPriorityClass]int{specs.IOPRIO_CLASS_RT: 1, specs.IOPRIO_CLASS_BE: 2, specs.IOPRIO_CLASS_IDLE: 3}[p.Class]
	if class == 0 || p.Priority < 0 || p.Priority > 7 {
		c.b.fail(errorf("ioPriority %s/%d: the class is one of IOPRIO_CLASS_RT, _BE, _IDLE, the priority 0 to 7", p.Class, p.Priority))
		return
	}
	const whoProcess, classShift = 1, 13
	c.b.begin("ioprio", "set the I/O priority")
	c.b.do(unix.SYS_IOPRIO_SET, n(whoProcess), n(0), n(class<<classShift|p.Priority))
}

func (c *compiler) personality(p *specs.LinuxPersonality) {
	domain, ok := map[specs.LinuxPersonalityDomain]int{specs.PerLinux: 0, specs.PerLinux32: 8}[p.Domain]
	if !ok || len(p.Flags) > 0 {
		c.b.fail(errorf("personality %q with flags %q is not known", p.Domain, p.Flags))
		return
	}
	c.b.begin("personality", "set the execution domain "+string(p.Domain))
	c.b.do(unix.SYS_PERSONALITY, n(domain))
}
