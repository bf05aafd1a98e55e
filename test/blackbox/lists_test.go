package blackbox

import (
	"encoding/json"
	"regexp"
	"slices"
	"strings"
	"testing"

	"vivarium/internal/testenv"
)

// crowd makes containers in several states, oldest first: web runs, made was never
// started, failed has ended with 3, frozen is paused.
func crowd(t *testing.T, e *testenv.Instance) (ids map[string]string) {
	t.Helper()
	t.Cleanup(func() {
		e.Viv("rm", "-f", "web", "made", "failed", "frozen")
		e.Viv("volume", "rm", "-f", "crowd-data")
	})
	ids = map[string]string{}
	ids["web"] = detached(t, e, "--name", "web", "-l", "color=red", "-l", "shape=round", "--network", "none",
		"-v", "crowd-data:/data", "-v", "/tmp:/host", box, "sh", "-c", "echo hi; exec sleep 1000")
	ids["made"] = e.MustViv("create", "--name", "made", "-l", "color=blue", "--network", "none", box+":latest", "true")
	if res := e.Viv("run", "--name", "failed", "--network", "host", box, "sh", "-c", "exit 3"); res.Code != 3 {
		t.Fatalf("%v", res)
	}
	ids["failed"] = inspect(t, e, "failed", "{{.Id}}")
	ids["frozen"] = detached(t, e, "--name", "frozen", "--network", "none", box, "sleep", "1000")
	e.MustViv("pause", "frozen")
	return ids
}

func TestPsColumns(t *testing.T) {
	e := newBox(t)
	ids := crowd(t, e)
	lines := func(args ...string) []string {
		t.Helper()
		return strings.Split(e.MustViv(append([]string{"ps"}, args...)...), "\n")
	}
	table := lines("-a")
	if got := strings.Join(strings.Fields(table[0]), " "); got != "CONTAINER ID IMAGE COMMAND CREATED STATUS PORTS NAMES" {
		t.Errorf("columns: %q", table[0])
	}
	if len(table) != 5 {
		t.Fatalf("ps -a: %q", table)
	}
	for i, like := range []string{
		ids["frozen"][:12] + ` +box +"sleep 1000" +\S.* ago +Up .* \(Paused\) +frozen`,
		ids["failed"][:12] + ` +box +"sh -c 'exit 3'" +\S.* ago +Exited \(3\) .* ago +failed`,
		ids["made"][:12] + ` +box:latest +"true" +\S.* ago +Created +made`,
		ids["web"][:12] + ` +box +"sh -c 'echo hi; exe…" +\S.* ago +Up .* +web`,
	} {
		if !regexp.MustCompile("^" + like + "$").MatchString(table[i+1]) {
			t.Errorf("line %d is %q, want it like %q", i+1, table[i+1], like)
		}
	}
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"-q"}, "frozen web"}, {[]string{"-aq"}, "frozen failed made web"}, {[]string{"-q", "-n", "2"}, "frozen failed"},
		{[]string{"-lq"}, "frozen"}, {[]string{"-q", "-n", "-1"}, "frozen web"}, {[]string{"-aq", "--no-trunc"}, "frozen failed made web"},
	} {
		var ids2 []string
		for name := range strings.FieldsSeq(c.want) {
			id := ids[name]
			if !slices.Contains(c.args, "--no-trunc") {
				id = id[:12]
			}
			ids2 = append(ids2, id)
		}
		if got := lines(c.args...); !slices.Equal(got, ids2) {
			t.Errorf("ps %q: %q, want %q", c.args, got, ids2)
		}
	}
	if got := strings.Join(lines("-a", "-s", "--filter", "name=made"), "\n"); !strings.Contains(got, "SIZE") || !regexp.MustCompile(`0B \(virtual [0-9.]+MB\)`).MatchString(got) {
		t.Errorf("ps -s: %q", got)
	}
	want(t, e.Viv("ps", "--no-trunc", "--filter", "name=web", "--format", "{{.Command}}"), 0, "\"sh -c 'echo hi; exec sleep 1000'\"\n")
	fails(t, e.Viv("ps", "-n", "x"), 125, "-n")
}

func TestPsFormat(t *testing.T) {
	e := newBox(t)
	ids := crowd(t, e)
	for _, c := range []struct{ format, want string }{
		{"{{.ID}} {{.Image}} {{.State}} {{.Names}} {{.Networks}} {{.LocalVolumes}}", ids["web"][:12] + " box running web none 1\n"},
		{"{{len .Labels}}|{{.Label \"color\"}}|{{.Label \"none\"}}", "21|red|\n"}, // Docker has them in no order
		{"{{.Mounts}}", "crowd-data,/tmp\n"},
		{"table {{.Names}}\t{{.Label \"com.example.my-color\"}}\t{{.Mounts}}", "NAMES     my color   MOUNTS\nweb                  crowd-data,/tmp\n"},
		{"table {{.ID}}", "CONTAINER ID\n" + ids["web"][:12] + "\n"},
		{"{{json .Names}}", "\"web\"\n"},
		{"{{upper .Names}} {{title .Names}} {{truncate .Names 2}} {{join (split .Names \"e\") \"-\"}}|{{pad .Names 1 2}}|", "WEB Web we w-b| web  |\n"},
	} {
		want(t, e.Viv("ps", "--filter", "name=web", "--format", c.format), 0, c.want)
	}
	formats := []string{"{{json .}}"}
	if !testenv.Reference() {
		formats = append(formats, "json") // new in 23.0
	}
	for _, format := range formats {
		var row map[string]string
		if err := json.Unmarshal([]byte(e.MustViv("ps", "--filter", "name=web", "--format", format)), &row); err != nil {
			t.Fatal(err)
		}
		if row["ID"] != ids["web"][:12] || row["Names"] != "web" || row["State"] != "running" || !strings.HasPrefix(row["Status"], "Up ") ||
			row["CreatedAt"] == "" || row["RunningFor"] == "" || row["Command"] == "" || row["Size"] == "" {
			t.Errorf("ps --format %s: %v", format, row)
		}
	}
	fails(t, e.Viv("ps", "--format", "{{.NoSuchField}}"), 1, "NoSuchField")
	fails(t, e.Viv("ps", "--format", "{{"), 1, "template", "unclosed action")
}

func TestPsFilters(t *testing.T) {
	e := newBox(t)
	ids := crowd(t, e)
	other := "lists-other:v1"
	e.MustViv("tag", box, other)
	t.Cleanup(func() { e.Viv("rmi", other) })
	const all = "frozen failed made web"
	for _, c := range []struct{ filters, want string }{
		{"id=" + ids["web"], "web"}, {"id=" + ids["web"][:12], "web"}, {"id=no-such-id", ""},
		{"name=web", "web"}, {"name=we", "web"}, {"name=^/web$", "web"}, {"name=^eb", ""}, {"name=web name=made", "made web"},
		{"label=color", "made web"}, {"label=color=red", "web"}, {"label=color=green", ""}, {"label=color label=shape", "web"},
		{"exited=3", "failed"}, {"exited=0", ""},
		{"status=running", "web"}, {"status=paused", "frozen"}, {"status=created", "made"}, {"status=exited", "failed"}, {"status=dead", ""},
		{"status=running status=exited", "failed web"},
		{"ancestor=" + box, all}, {"ancestor=" + box + ":latest", all}, {"ancestor=" + other, all}, {"ancestor=no-such-image", ""},
		{"before=failed", "made web"}, {"since=failed", "frozen"}, {"since=web before=frozen", "failed made"},
		{"volume=crowd-data", "web"}, {"volume=/data", "web"}, {"volume=/host", "web"}, {"volume=/tmp", "web"}, {"volume=none", ""},
		{"network=none", "frozen made web"}, {"network=host", "failed"}, {"network=no-such-network", ""},
		{"publish=80", ""}, {"expose=80-90/udp", ""},
		{"health=none", all}, {"health=healthy", ""}, {"is-task=false", all}, {"is-task=true", ""},
		{"name=web label=color=blue", ""},
	} {
		t.Run(c.filters, func(t *testing.T) {
			args := []string{"ps", "-a", "--format", "{{.Names}}"}
			for f := range strings.FieldsSeq(c.filters) {
				args = append(args, "--filter", f)
			}
			if got := strings.Join(strings.Fields(e.MustViv(args...)), " "); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
	// Only the state filter reaches beyond what runs.
	want(t, e.Viv("ps", "--filter", "status=exited", "--format", "{{.Names}}"), 0, "failed\n")
	want(t, e.Viv("ps", "--filter", "exited=3", "--format", "{{.Names}}"), 0, "")
	want(t, e.Viv("ps", "--filter", "name=failed", "--format", "{{.Names}}"), 0, "")
	for _, f := range []string{"status=x", "health=x", "exited=x", "publish=x", "expose=x", "is-task=x", "before=no-such-container", "nonsense=1"} {
		value := f[strings.IndexByte(f, '=')+1:]
		if strings.HasPrefix(f, "nonsense") {
			value = "invalid filter 'nonsense'"
		}
		fails(t, e.Viv("ps", "--filter", f), 1, value)
	}
	fails(t, e.Viv("ps", "--filter", "name"), 125, "bad format of filter")
	fails(t, e.Viv("ps", "one", "two"), map[bool]int{true: 1, false: 125}[testenv.Reference()], "accepts no arguments")
}

func TestImagesList(t *testing.T) {
	e := newBox(t)
	rootfs := testenv.Image(t, "busybox").Rootfs
	id := e.MustViv("import", "-c", "LABEL lists=yes", "-c", "ENV A=b", rootfs, "lists/one:v1")
	e.MustViv("tag", "lists/one:v1", "lists/one:v2")
	e.MustViv("tag", "lists/one:v1", "lists/two:v1")
	nameless := e.MustViv("import", "-c", "LABEL lists=yes", "-c", "LABEL dangling=yes", rootfs)
	t.Cleanup(func() { e.Viv("rmi", "lists/one:v1", "lists/one:v2", "lists/two:v1", nameless) })
	short := func(id string) string { return strings.TrimPrefix(id, "sha256:")[:12] }

	table := strings.Split(e.MustViv("images", "lists/two"), "\n")
	if got := strings.Join(strings.Fields(table[0]), " "); got != "REPOSITORY TAG IMAGE ID CREATED SIZE" {
		t.Errorf("columns: %q", got)
	}
	if len(table) != 2 || !regexp.MustCompile(`^lists/two +v1 +`+short(id)+` +\S.* ago +[0-9.]+MB$`).MatchString(table[1]) {
		t.Errorf("images: %q", table)
	}
	names := func(args ...string) []string {
		list := strings.Fields(e.MustViv(append([]string{"images", "--format", "{{.Repository}}:{{.Tag}}"}, args...)...))
		slices.Sort(list)
		return list
	}
	const every = "<none>:<none> lists/one:v1 lists/one:v2 lists/two:v1"
	for _, c := range []struct{ args, want string }{
		{"lists/one", "lists/one:v1 lists/one:v2"}, {"lists/one:v2", "lists/one:v2"}, {"lists/none", ""}, {"lists/*:v1", "lists/one:v1 lists/two:v1"},
		{"--filter label=lists", every}, {"--filter label=lists=yes", every}, {"--filter label=lists=no", ""},
		{"--filter label=lists --filter dangling=true", "<none>:<none>"},
		{"--filter label=lists --filter dangling=false", "lists/one:v1 lists/one:v2 lists/two:v1"},
		{"--filter label=lists --filter label=dangling", "<none>:<none>"},
		{"--filter reference=lists/t*", "lists/two:v1"}, {"--filter reference=lists/*:v2", "lists/one:v2"},
		{"--filter label=lists --filter since=lists/one:v1", "<none>:<none>"},
		{"--filter label=lists --filter before=" + nameless, "lists/one:v1 lists/one:v2 lists/two:v1"},
	} {
		if got := strings.Join(names(strings.Fields(c.args)...), " "); got != c.want {
			t.Errorf("images %s: %q, want %q", c.args, got, c.want)
		}
	}
	want(t, e.Viv("images", "-q", "lists/two"), 0, short(id)+"\n")
	want(t, e.Viv("images", "-q", "--no-trunc", "lists/two"), 0, id+"\n")
	want(t, e.Viv("images", "--digests", "--format", "table {{.ID}}\t{{.Digest}}", "lists/two"), 0, "IMAGE ID       DIGEST\n"+short(id)+"   <none>\n")
	var row map[string]string
	if err := json.Unmarshal([]byte(e.MustViv("images", "--format", "{{json .}}", "lists/two")), &row); err != nil {
		t.Fatal(err)
	}
	if row["ID"] != short(id) || row["Repository"] != "lists/two" || row["Tag"] != "v1" || row["Size"] == "" || row["CreatedSince"] == "" || row["CreatedAt"] == "" {
		t.Errorf("images as JSON: %v", row)
	}
	for _, f := range []string{"dangling=x", "since=no-such-image", "reference=[", "nonsense=1"} {
		fails(t, e.Viv("images", "--filter", f), 1)
	}
	fails(t, e.Viv("images", "one", "two"), map[bool]int{true: 1, false: 125}[testenv.Reference()], "at most 1 argument")
}

func TestVolumeList(t *testing.T) {
	e := newBox(t)
	e.MustViv("volume", "create", "--label", "lists=one", "lists-one")
	e.MustViv("volume", "create", "--label", "lists=two", "lists-two")
	e.MustViv("create", "--name", "user", "-v", "lists-two:/v", box, "true")
	t.Cleanup(func() {
		e.Viv("rm", "user")
		e.Viv("volume", "rm", "lists-one", "lists-two")
	})
	for _, c := range []struct{ filters, want string }{
		{"label=lists", "lists-one lists-two"}, {"label=lists=two", "lists-two"}, {"name=lists-o", "lists-one"}, {"name=no-such-volume", ""},
		{"label=lists dangling=true", "lists-one"}, {"label=lists dangling=false", "lists-two"},
		{"label=lists driver=local", "lists-one lists-two"}, {"driver=none", ""},
	} {
		args := []string{"volume", "ls", "-q"}
		for f := range strings.FieldsSeq(c.filters) {
			args = append(args, "--filter", f)
		}
		if got := strings.Join(strings.Fields(e.MustViv(args...)), " "); got != c.want {
			t.Errorf("volume ls, %s: %q, want %q", c.filters, got, c.want)
		}
	}
	want(t, e.Viv("volume", "ls", "--filter", "name=lists-one"), 0, "DRIVER    VOLUME NAME\nlocal     lists-one\n")
	want(t, e.Viv("volume", "ls", "--filter", "name=lists-one", "--format", "{{.Name}} {{.Driver}} {{.Scope}} {{.Labels}} {{.Label \"lists\"}} {{.Links}} {{.Size}}"), 0,
		"lists-one local local lists=one one N/A N/A\n")
	fails(t, e.Viv("volume", "ls", "--filter", "nonsense=1"), 1, "invalid filter 'nonsense'")
	fails(t, e.Viv("volume", "ls", "--filter", "dangling=x"), 1, "dangling")
}

func TestNetworkList(t *testing.T) {
	testenv.Root(t)
	e := testenv.Engine(t)
	table := strings.Split(e.MustViv("network", "ls", "--filter", "type=builtin"), "\n")
	if got := strings.Join(strings.Fields(table[0]), " "); got != "NETWORK ID NAME DRIVER SCOPE" {
		t.Errorf("columns: %q", table[0])
	}
	if got := len(table); got != 4 && !testenv.Reference() { // the reference has no bridge
		t.Errorf("networks: %q", table)
	}
	for _, c := range []struct{ filter, want string }{
		{"name=host", "host"}, {"name=ho", "host"}, {"driver=null", "none"}, {"driver=host", "host"}, {"type=custom", ""},
		{"scope=global", ""}, {"label=x", ""}, {"dangling=true", ""},
	} {
		if got := e.MustViv("network", "ls", "--filter", c.filter, "--format", "{{.Name}}"); got != c.want {
			t.Errorf("network ls, %s: %q, want %q", c.filter, got, c.want)
		}
	}
	id := e.MustViv("network", "ls", "-q", "--no-trunc", "--filter", "name=host")
	if !fullID.MatchString(id) {
		t.Errorf("ID of a network: %q", id)
	}
	want(t, e.Viv("network", "ls", "-q", "--filter", "id="+id), 0, id[:12]+"\n")
	want(t, e.Viv("network", "ls", "--filter", "name=host", "--format", "{{.Name}} {{.Driver}} {{.Scope}} {{.Internal}} {{.IPv6}} {{.Labels}}"), 0, "host host local false false \n")
	fails(t, e.Viv("network", "ls", "--filter", "nonsense=1"), 1, "invalid filter 'nonsense'")
	fails(t, e.Viv("network", "ls", "--filter", "type=x"), 1, "type")
}
