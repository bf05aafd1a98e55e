package wire

// Encode gives the configuration as MsgConfig's payload. files is a set of
// HasProgram, HasNetNS, HasPidFD and HasPorts.
func (c *Config) Encode(files int) []byte {
	e := encoder{b: make([]byte, 0, 1024)}
	e.u64(uint64(files))
	c.visit(&e)
	return e.b
}

// DecodeConfig is the reverse of Encode.
func DecodeConfig(b []byte) (c *Config, files int, err error) {
	d := decoder{b: b}
	var f uint64
	d.field(&f)
	c = new(Config)
	c.visit(&d)
	if d.bad || len(d.b) != 0 {
		return nil, 0, ErrFormat
	}
	return c, int(f), nil
}

// visitor is an encoder or a decoder: both go through the fields in one order.
type visitor interface {
	str(*string)
	field(*uint64)
}

func (c *Config) visit(v visitor) {
	for _, s := range []*string{&c.ID, &c.StateDir, &c.Dir, &c.LogPath, &c.LogAttrs, &c.Restart, &c.MemoryEvents} {
		v.str(s)
	}
	for _, b := range []*bool{&c.Exec, &c.TTY, &c.OpenStdin, &c.StdinOnce, &c.AutoRemove} {
		visitBool(v, b)
	}
	for _, i := range []*int{&c.LogMaxFile, &c.RestartMax, &c.RestartCount, &c.AdoptPid, &c.FaultPhase, &c.FaultIndex, &c.FaultErrno} {
		u := uint64(*i)
		v.field(&u)
		*i = int(u)
	}
	for _, i := range []*int64{&c.LogMaxSize, &c.AdoptStarted} {
		u := uint64(*i)
		v.field(&u)
		*i = int64(u)
	}
	v.field(&c.AdoptTicks)
	size := uint64(c.Rows)<<16 | uint64(c.Cols)
	v.field(&size)
	c.Rows, c.Cols = uint16(size>>16), uint16(size)
	visitList(v, &c.CgroupDirs)
	visitList(v, &c.Cleanup)
}

func visitBool(v visitor, b *bool) {
	u := uint64(0)
	if *b {
		u = 1
	}
	v.field(&u)
	*b = u != 0
}

// maxList bounds a decoded list before it is allocated.
const maxList = 4096

func visitList(v visitor, list *[]string) {
	n := uint64(len(*list))
	v.field(&n)
	if len(*list) == 0 && n > 0 && n <= maxList {
		*list = make([]string, n)
	}
	for i := range *list {
		v.str(&(*list)[i])
	}
}

type encoder struct{ b []byte }

func (e *encoder) u64(v uint64)    { e.b = PutU64(e.b, v) }
func (e *encoder) field(v *uint64) { e.u64(*v) }
func (e *encoder) str(s *string) {
	e.u64(uint64(len(*s)))
	e.b = append(e.b, *s...)
}

type decoder struct {
	b   []byte
	bad bool
}

func (d *decoder) field(v *uint64) {
	if len(d.b) < 8 {
		d.bad = true
		*v = 0
		return
	}
	*v = U64(d.b)
	d.b = d.b[8:]
}

func (d *decoder) str(s *string) {
	var n uint64
	d.field(&n)
	if n > uint64(len(d.b)) {
		d.bad = true
		return
	}
	*s = string(d.b[:n])
	d.b = d.b[n:]
}

// PutU64, U64, PutU32 and U32 are little-endian, without encoding/binary and
// the reflection that it brings.
func PutU64(b []byte, v uint64) []byte { return PutU32(PutU32(b, uint32(v)), uint32(v>>32)) }

func PutU32(b []byte, v uint32) []byte {
	return append(b, byte(v), byte(v>>8), byte(v>>16), byte(v>>24))
}

func U64(b []byte) uint64 { return uint64(U32(b)) | uint64(U32(b[4:]))<<32 }

func U32(b []byte) uint32 {
	return uint32(b[0]) | uint32(b[1])<<8 | uint32(b[2])<<16 | uint32(b[3])<<24
}
