package systemd

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"vivarium/sandbox/cgroup"
)

// infinity is systemd's "no limit" for properties of type t (uint64).
const infinity = math.MaxUint64

// list collects properties of a unit.
type list struct {
	properties []Property
	err        error
}

func (l *list) add(name string, value any) {
	l.properties = append(l.properties, Property{Name: name, Value: value})
}

func (l *list) fail(err error) {
	if l.err == nil {
		l.err = err
	}
}

// limit adds a limit of which a negative value means none. 0 is not a limit that
// the spec gives.
func (l *list) limit(name string, value *int64) {
	switch {
	case value == nil || *value == 0:
	case *value < 0:
		l.add(name, uint64(infinity))
	default:
		l.add(name, uint64(*value))
	}
}

// Resources gives the properties of systemd (systemd.resource-control(5)) that
// stand for limits; which limits have one is runc's list (docs/systemd.md).
// release is systemd's (252): what it is too old for is left to the files.
func Resources(r *specs.LinuxResources, v2 bool, release int) ([]Property, error) {
	if r == nil {
		return nil, nil
	}
	l := new(list)
	if v2 {
		l.memoryV2(r.Memory)
	} else if r.Memory != nil {
		l.limit("MemoryLimit", r.Memory.Limit)
	}
	l.cpu(r.CPU, v2, release)
	if r.Pids != nil && r.Pids.Limit != nil {
		l.limit("TasksMax", r.Pids.Limit)
	}
	if !v2 && r.BlockIO != nil && r.BlockIO.Weight != nil && *r.BlockIO.Weight != 0 {
		l.add("BlockIOWeight", uint64(*r.BlockIO.Weight))
	}
	for _, key := range slices.Sorted(maps.Keys(r.Unified)) {
		l.unified(key, strings.TrimSpace(r.Unified[key]), release)
	}
	return l.properties, l.err
}

func (l *list) memoryV2(m *specs.LinuxMemory) {
	if m == nil {
		return
	}
	l.limit("MemoryMax", m.Limit)
	l.limit("MemoryLow", m.Reservation)
	if m.Swap == nil || *m.Swap == 0 {
		return
	}
	// The spec's is memory and swap together.
	swap := *m.Swap
	if swap > 0 {
		if m.Limit == nil || *m.Limit <= 0 || *m.Limit > swap {
			return // the files' own rules say what is wrong with it
		}
		if swap -= *m.Limit; swap == 0 {
			l.add("MemorySwapMax", uint64(0))
			return
		}
	}
	l.limit("MemorySwapMax", &swap)
}

func (l *list) cpu(c *specs.LinuxCPU, v2 bool, release int) {
	if c == nil {
		return
	}
	if c.Shares != nil && *c.Shares != 0 {
		if v2 {
			l.add("CPUWeight", cgroup.SharesToWeight(*c.Shares))
		} else {
			l.add("CPUShares", *c.Shares)
		}
	}
	if v2 && c.Idle != nil && *c.Idle == 1 && release >= 252 {
		l.add("CPUWeight", uint64(0))
	}
	var period uint64
	if c.Period != nil {
		period = *c.Period
	}
	if c.Quota != nil {
		l.quota(*c.Quota, period, release)
	} else if period != 0 && release >= 242 {
		l.add("CPUQuotaPeriodUSec", period)
	}
	if release >= 244 {
		l.set("AllowedCPUs", c.Cpus)
		l.set("AllowedMemoryNodes", c.Mems)
	}
}

// quota is given to systemd as microseconds a second, rounded up to its own
// steps of one percent (10 ms).
func (l *list) quota(quota int64, period uint64, release int) {
	if period != 0 && release >= 242 {
		l.add("CPUQuotaPeriodUSec", period)
	}
	if quota == 0 {
		return
	}
	perSecond := uint64(infinity)
	if quota > 0 {
		if period == 0 {
			period = 100_000 // the kernel's default
		}
		perSecond = uint64(quota) * 1_000_000 / period
		if rest := perSecond % 10_000; rest != 0 {
			perSecond += 10_000 - rest
		}
	}
	l.add("CPUQuotaPerSecUSec", perSecond)
}

// set adds a list like "0-3,7" as systemd takes it: a bit map, the lowest byte
// first.
func (l *list) set(name, text string) {
	if text == "" {
		return
	}
	bits, err := bitmap(text)
	if err != nil {
		l.fail(fmt.Errorf("%s: %w", name, err))
		return
	}
	l.add(name, bits)
}

// maxCPU bounds what a list may name, as the kernel's largest configurations do.
const maxCPU = 8192

func bitmap(text string) ([]byte, error) {
	var bits []byte
	for part := range strings.SplitSeq(text, ",") {
		part = strings.TrimSpace(part)
		if part == "" {
			continue
		}
		from, to, isRange := strings.Cut(part, "-")
		if !isRange {
			to = from
		}
		first, err1 := strconv.ParseUint(from, 10, 16)
		last, err2 := strconv.ParseUint(to, 10, 16)
		if err1 != nil || err2 != nil || last < first || last >= maxCPU {
			return nil, fmt.Errorf("%q is no list of numbers and ranges", text)
		}
		for n := first; n <= last; n++ {
			for uint64(len(bits)) <= n/8 {
				bits = append(bits, 0)
			}
			bits[n/8] |= 1 << (n % 8)
		}
	}
	if len(bits) == 0 {
		return nil, fmt.Errorf("%q is an empty list", text)
	}
	return bits, nil
}

// unified adds the property for a file of the v2 map. A file that systemd has no
// property for is only written.
func (l *list) unified(file, value string, release int) {
	switch file {
	case "cpu.max":
		quota, period, _ := strings.Cut(value, " ")
		p, err := uint64(100_000), error(nil)
		if period != "" {
			if p, err = strconv.ParseUint(strings.TrimSpace(period), 10, 64); err != nil || p == 0 {
				l.fail(fmt.Errorf("unified resource %s: %q is no period", file, period))
				return
			}
		}
		q := int64(-1)
		if quota != "max" {
			if q, err = strconv.ParseInt(quota, 10, 64); err != nil || q <= 0 {
				l.fail(fmt.Errorf("unified resource %s: %q is no quota", file, quota))
				return
			}
		}
		l.quota(q, p, release)
	case "cpu.weight":
		if n, ok := l.number(file, value); ok {
			l.add("CPUWeight", n)
		}
	case "cpu.idle":
		if value == "1" && release >= 252 {
			l.add("CPUWeight", uint64(0))
		}
	case "cpuset.cpus", "cpuset.mems":
		if release >= 244 {
			l.set(map[string]string{"cpuset.cpus": "AllowedCPUs", "cpuset.mems": "AllowedMemoryNodes"}[file], value)
		}
	default:
		if name := unifiedNames[file]; name != "" {
			if n, ok := l.number(file, value); ok {
				l.add(name, n)
			}
		}
	}
}

var unifiedNames = map[string]string{
	"memory.high": "MemoryHigh", "memory.low": "MemoryLow", "memory.min": "MemoryMin",
	"memory.max": "MemoryMax", "memory.swap.max": "MemorySwapMax", "pids.max": "TasksMax",
}

func (l *list) number(file, value string) (uint64, bool) {
	if value == "max" {
		return infinity, true
	}
	n, err := strconv.ParseUint(value, 10, 64)
	if err != nil {
		l.fail(fmt.Errorf("unified resource %s: %q is no number", file, value))
		return 0, false
	}
	return n, true
}

// annotated is the prefix of the annotations that give a property as it is.
const annotated = "org.systemd.property."

// Annotations gives the properties that annotations ask for, in the text form of
// GVariant, as runc takes them (docs/systemd.md): "org.systemd.property.TimeoutStopUSec":
// "uint64 123456789". A name that ends in "Sec" is in seconds, and becomes the
// "USec" that systemd knows.
func Annotations(a map[string]string) ([]Property, error) {
	var out []Property
	for _, key := range slices.Sorted(maps.Keys(a)) {
		name, ok := strings.CutPrefix(key, annotated)
		if !ok {
			continue
		}
		if !isPropertyName(name) {
			return nil, fmt.Errorf("annotation %s: %q is no name of a property", key, name)
		}
		v, err := parseVariant(a[key])
		if err != nil {
			return nil, fmt.Errorf("annotation %s=%s: %w", key, a[key], err)
		}
		if base, isSec := strings.CutSuffix(name, "Sec"); isSec && !strings.HasSuffix(base, "U") {
			if v, err = microseconds(v); err != nil {
				return nil, fmt.Errorf("annotation %s=%s: %w", key, a[key], err)
			}
			name = base + "USec"
		}
		out = append(out, Property{Name: name, Value: v})
	}
	return out, nil
}

func isPropertyName(name string) bool {
	if len(name) < 3 {
		return false
	}
	for _, r := range name {
		if !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z') {
			return false
		}
	}
	return true
}

func microseconds(value any) (uint64, error) {
	const million = 1_000_000
	switch n := value.(type) {
	case byte:
		return uint64(n) * million, nil
	case uint16:
		return uint64(n) * million, nil
	case uint32:
		return uint64(n) * million, nil
	case uint64:
		return n * million, nil
	case int16:
		return uint64(n) * million, nil
	case int32:
		return uint64(n) * million, nil
	case int64:
		return uint64(n) * million, nil
	case float64:
		return uint64(n * million), nil
	}
	return 0, fmt.Errorf("%v is not a number of seconds", value)
}

// parseVariant reads a value in GVariant's text format, of the kinds that
// properties have: booleans, numbers with or without the word for their type
// (int32 without), strings in quotes, and arrays of strings.
func parseVariant(text string) (any, error) {
	text = strings.TrimSpace(text)
	switch {
	case text == "true" || text == "false":
		return text == "true", nil
	case len(text) >= 2 && (text[0] == '\'' || text[0] == '"'):
		s, rest, err := quoted(text)
		if err == nil && rest != "" {
			err = fmt.Errorf("%q stands behind the string", rest)
		}
		return s, err
	case strings.HasPrefix(text, "[") && strings.HasSuffix(text, "]"):
		return stringArray(text[1 : len(text)-1])
	}
	kind, digits, typed := strings.Cut(text, " ")
	if !typed {
		kind, digits = "int32", text
		if strings.ContainsAny(text, ".eE") {
			kind = "double"
		}
	}
	return number(kind, strings.TrimSpace(digits))
}

func number(kind, digits string) (any, error) {
	var value any
	var err error
	switch kind {
	case "byte":
		var n uint64
		n, err = strconv.ParseUint(digits, 0, 8)
		value = byte(n)
	case "uint16":
		var n uint64
		n, err = strconv.ParseUint(digits, 0, 16)
		value = uint16(n)
	case "uint32":
		var n uint64
		n, err = strconv.ParseUint(digits, 0, 32)
		value = uint32(n)
	case "uint64":
		value, err = strconv.ParseUint(digits, 0, 64)
	case "int16":
		var n int64
		n, err = strconv.ParseInt(digits, 0, 16)
		value = int16(n)
	case "int32":
		var n int64
		n, err = strconv.ParseInt(digits, 0, 32)
		value = int32(n)
	case "int64":
		value, err = strconv.ParseInt(digits, 0, 64)
	case "double":
		value, err = strconv.ParseFloat(digits, 64)
	default:
		return nil, fmt.Errorf("%q is no value in GVariant's text format that a property takes", strings.TrimSpace(kind+" "+digits))
	}
	return value, err
}

// quoted takes a string in quotes from the beginning of a text.
func quoted(text string) (s, rest string, err error) {
	var out strings.Builder
	for i := 1; i < len(text); i++ {
		switch text[i] {
		case text[0]:
			return out.String(), strings.TrimSpace(text[i+1:]), nil
		case '\\':
			if i++; i < len(text) {
				out.WriteByte(text[i])
			}
		default:
			out.WriteByte(text[i])
		}
	}
	return "", "", fmt.Errorf("the string %s has no end", text)
}

func stringArray(text string) ([]string, error) {
	list := []string{}
	for text = strings.TrimSpace(text); text != ""; {
		if text[0] != '\'' && text[0] != '"' {
			return nil, fmt.Errorf("an array of other things than strings: %s", text)
		}
		s, rest, err := quoted(text)
		if err != nil {
			return nil, err
		}
		list = append(list, s)
		if text = rest; text != "" {
			if text[0] != ',' {
				return nil, fmt.Errorf("%q stands where a comma is to be", text)
			}
			text = strings.TrimSpace(text[1:])
		}
	}
	return list, nil
}
