package lazyjson

import (
	"encoding/json"
	"math/rand/v2"
	"net/netip"
	"os"
	"reflect"
	"testing"
	"testing/quick"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

type embedded struct{ E, F int }

type sample struct {
	embedded
	A     int    `json:"a"`
	B     string `json:"b,omitempty"`
	C     *int
	D     []string        `json:"d"`
	M     map[string]int  `json:"m,omitempty"`
	N     map[string]*int // sorted keys
	Bytes []byte          `json:"bytes"`
	Arr   [2]uint8
	Skip  int `json:"-"`
	//lint:ignore SA5008 a field that is named "-" is what is tried
	Dash   int `json:"-,"`
	T      time.Time
	Z      time.Time  `json:"z,omitzero"`
	P      *time.Time `json:"p,omitempty"`
	IP     netip.Addr
	Any    any
	F64    float64
	S      int64 `json:"s,string"`
	Bool   bool  `json:"bool,omitempty"`
	Nest   struct{ X []embedded }
	hidden int
}

// TestMarshalAgrees compares with encoding/json on random values.
func TestMarshalAgrees(t *testing.T) {
	check := func(a int, b string, c *int, d []string, m map[string]int, n map[string]*int, bytes []byte, any string, f float64, x []embedded) bool {
		v := sample{A: a, B: b, C: c, D: d, M: m, N: n, Bytes: bytes, T: time.Unix(int64(uint32(a)), 5), Any: any, F64: f, S: int64(a), IP: netip.AddrFrom4([4]byte{1, 2, 3, byte(a)})}
		v.Nest.X = x
		v.E, v.hidden = a, a
		return agrees(t, &v) && agrees(t, v)
	}
	if err := quick.Check(check, &quick.Config{MaxCount: 500}); err != nil {
		t.Error("a value was written otherwise")
	}
}

func agrees(t *testing.T, v any) bool {
	t.Helper()
	want, err1 := json.Marshal(v)
	got, err2 := Marshal(v)
	if (err1 == nil) != (err2 == nil) || string(got) != string(want) {
		t.Errorf("got  %.2000s, %v\nwant %.2000s, %v", got, err2, want, err1)
		return false
	}
	return true
}

// TestSpecThereAndBack writes and reads a whole OCI spec.
func TestSpecThereAndBack(t *testing.T) {
	mode, n := os.FileMode(0o600), int64(5)
	s := &specs.Spec{Version: "1.3.0", Hostname: "a<b>\u2028é",
		Process: &specs.Process{Args: []string{"a"}, User: specs.User{AdditionalGids: []uint32{1}}, OOMScoreAdj: new(int)},
		Linux: &specs.Linux{Devices: []specs.LinuxDevice{{Path: "/x", FileMode: &mode}}, Sysctl: map[string]string{"b": "1", "a": "2"},
			Resources: &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &n}}},
		Annotations: map[string]string{"k": "v"}}
	agrees(t, s)
	b, err := Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	var back specs.Spec
	if err := Unmarshal(b, &back); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(*s, back) {
		t.Errorf("came back as %+v", back)
	}
}

// TestOwnTypes: types that read and write themselves.
func TestOwnTypes(t *testing.T) {
	type own struct {
		T  time.Time
		P  *time.Time
		IP netip.Addr
		B  []byte
		A  [3]int
		R  json.RawMessage
	}
	now := time.Unix(rand.Int64N(1e9), 7).UTC()
	v := own{T: now, P: &now, IP: netip.MustParseAddr("10.0.0.1"), B: []byte{0, 255}, A: [3]int{1, 2, 3}, R: json.RawMessage(`{"x":[1]}`)}
	agrees(t, v)
	b, err := Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	var back own
	if err := Unmarshal(b, &back); err != nil || !reflect.DeepEqual(v, back) {
		t.Errorf("came back as %+v, %v", back, err)
	}
}
