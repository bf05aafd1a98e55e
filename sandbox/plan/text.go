package plan

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
)

func itoa(v int) string      { return strconv.Itoa(v) }
func utoa(v uint32) string   { return strconv.FormatUint(uint64(v), 10) }
func u64toa(v uint64) string { return strconv.FormatUint(v, 10) }
func i64toa(v int64) string  { return strconv.FormatInt(v, 10) }

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K {
	return slices.Sorted(maps.Keys(m))
}
