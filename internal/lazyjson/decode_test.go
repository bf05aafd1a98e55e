package lazyjson

import (
	"encoding/json"
	"math/rand/v2"
	"reflect"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// seeds are specs with values of every kind.
var seeds = []string{
	`{}`,
	`{"ociVersion":"1.3.0","process":{"terminal":true,"user":{"uid":1,"gid":2,"umask":18,"additionalGids":[3,4]},"args":["sh","-c","x"],"env":["A=\u00e9\n\"\\/","B=ü"],"cwd":"/","capabilities":{"bounding":["CAP_KILL"],"ambient":null},"rlimits":[{"type":"RLIMIT_NOFILE","hard":1024,"soft":18446744073709551615}],"noNewPrivileges":false,"oomScoreAdj":-17,"consoleSize":{"height":1,"width":2}},"root":{"path":"rootfs","readonly":true},"hostname":"h"}`,
	`{"mounts":[{"destination":"/a","type":"tmpfs","source":"t","options":["ro"],"uidMappings":[{"containerID":0,"hostID":1,"size":2}]},{"destination":"/b"}],"hooks":{"prestart":[{"path":"/p","args":["a"],"env":[],"timeout":5}],"poststop":[]},"annotations":{"a":"b","":"c"},"unknown":{"a":[1,2.5e3,-0,{"b":null}],"c":true}}`,
	`{"linux":{"uidMappings":[{"hostID":4294967295,"size":1}],"sysctl":{"net.x":"1"},"resources":{"network":{"classID":5,"priorities":[{"name":"e","priority":1}]},"pids":{"limit":10},"memory":{"limit":-1,"swappiness":60,"disableOOMKiller":true},"cpu":{"shares":1,"quota":-5,"cpus":"0-3","idle":1},"devices":[{"allow":true,"type":"c","major":1,"minor":3,"access":"rwm"}],"blockIO":{"weight":10,"throttleReadBpsDevice":[{"major":8,"minor":0,"rate":100}]},"hugepageLimits":[{"pageSize":"2MB","limit":1}],"unified":{"memory.high":"1"},"rdma":{"d":{"hcaHandles":1}}},"cgroupsPath":"/x","namespaces":[{"type":"pid"},{"type":"network","path":"/n"}],"devices":[{"path":"/dev/x","type":"c","major":1,"minor":2,"fileMode":438,"uid":0}],"seccomp":{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":1,"architectures":["SCMP_ARCH_X86_64"],"syscalls":[{"names":["a","b"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":1,"valueTwo":2,"op":"SCMP_CMP_EQ"}]}]},"timeOffsets":{"boottime":{"secs":-3,"nanosecs":4}},"personality":{"domain":"LINUX"},"maskedPaths":["/p"]}}`,
	`{"windows":{"layerFolders":["a"],"credentialSpec":{"x":[1,"y"]}},"vm":{"kernel":{"path":"/k"}},"solaris":{"limitpriv":"x"}}`,
	` { "OCIVERSION" : "1" , "Process" : null , "linux" : { } } `,
}

// same compares with encoding/json.
func same(t *testing.T, data []byte) {
	t.Helper()
	var ours, theirs specs.Spec
	err, want := Unmarshal(data, &ours), json.Unmarshal(data, &theirs)
	if (err == nil) != (want == nil) {
		t.Fatalf("%s\nours: %v\nencoding/json: %v", data, err, want)
	}
	if err == nil && !reflect.DeepEqual(ours, theirs) {
		a, _ := json.Marshal(ours)
		b, _ := json.Marshal(theirs)
		t.Fatalf("%s\nours:          %s\nencoding/json: %s", data, a, b)
	}
}

func TestSame(t *testing.T) {
	for _, s := range seeds {
		same(t, []byte(s))
	}
	for _, s := range []string{``, ` `, `[]`, `1`, `"x"`, `{`, `{"a"`, `{"a":`, `{"a":1,}`, `{,}`, `{"a":01}`, `{"a":1.}`, `{"a":-}`, `{"a":+1}`, `{"a":.5}`,
		`{"a":tru}`, `{"a":"x}`, "{\"a\":\"\n\"}", `{"a":[1,]}`, `{"a":[1 2]}`, `{"a" 1}`, `{a:1}`, `{} x`, `{"ociVersion":1}`, `{"process":[]}`, `{"mounts":{}}`,
		`{"process":{"user":{"uid":-1}}}`, `{"process":{"user":{"uid":4294967296}}}`, `{"process":{"user":{"uid":1.0}}}`, `{"process":{"user":{"uid":1e2}}}`,
		`{"process":{"terminal":"true"}}`, `{"process":{"args":["\ud800","\ud83d\ude00","\x"]}}`, "{\"hostname\":\"\xff\"}", `{"hostname":"\u12"}`, `{"annotations":{"a":1}}`, `{"root":nul}`} {
		same(t, []byte(s))
	}
}

// TestTypes: the types of a spec are those that this package can read.
func TestTypes(t *testing.T) {
	seen := map[reflect.Type]bool{}
	var visit func(reflect.Type)
	visit = func(ty reflect.Type) {
		if seen[ty] {
			return
		}
		seen[ty] = true
		if reflect.PointerTo(ty).Implements(reflect.TypeFor[json.Unmarshaler]()) {
			t.Errorf("%v decodes itself", ty)
		}
		switch ty.Kind() {
		case reflect.Struct:
			for i := range ty.NumField() {
				if f := ty.Field(i); f.Anonymous && f.Type.Kind() != reflect.Struct {
					t.Errorf("%v embeds a %v", ty, f.Type)
				}
				visit(ty.Field(i).Type)
			}
		case reflect.Pointer, reflect.Map:
			visit(ty.Elem())
		case reflect.Slice:
			if ty.Elem().Kind() == reflect.Uint8 {
				t.Errorf("%v is base64", ty)
			}
			visit(ty.Elem())
		}
	}
	visit(reflect.TypeFor[specs.Spec]())
}

// TestDepth: nesting is bounded.
func TestDepth(t *testing.T) {
	deep := make([]byte, 0, 1<<20)
	deep = append(deep, `{"x":`...)
	for range 1 << 19 {
		deep = append(deep, '[')
	}
	if err := Unmarshal(deep, new(specs.Spec)); err == nil {
		t.Error("half a million brackets were accepted")
	}
}

// TestMutations changes bytes of the seeds.
func TestMutations(t *testing.T) {
	alphabet := []byte(`{}[]",:0123456789.-+eEtrufalsn\/ x`)
	for _, s := range seeds {
		for range 3000 {
			b := []byte(s)
			for range 1 + rand.IntN(2) {
				if i := rand.IntN(len(b) + 1); i < len(b) {
					b[i] = alphabet[rand.IntN(len(alphabet))]
				}
			}
			if !twice(b) {
				same(t, b)
			}
		}
	}
}

// twice says whether an object has a key twice, in any letters: the one thing
// that is read in another way.
func twice(b []byte) bool {
	var a any
	if json.Unmarshal(b, &a) != nil {
		return false
	}
	compact, err := json.Marshal(a)
	if err != nil {
		return true
	}
	return count(b) != count(compact)
}

// count counts the strings that are followed by a colon.
func count(b []byte) (n int) {
	inside := false
	for i := 0; i < len(b); i++ {
		switch {
		case inside && b[i] == '\\':
			i++
		case b[i] == '"':
			inside = !inside
		case !inside && b[i] == ':':
			n++
		}
	}
	return n
}

func FuzzUnmarshal(f *testing.F) {
	for _, s := range seeds {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if !twice(b) {
			same(t, b)
		}
	})
}
