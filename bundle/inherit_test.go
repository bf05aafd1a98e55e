package bundle

import (
	"slices"
	"testing"
)

func TestInherit(t *testing.T) {
	var o Options
	o.HostConfig.Binds = []string{"/src:/explicit"}
	o.Config.Volumes = map[string]struct{}{"/anonymous": {}, "/kept": {}}
	list, err := Mounts(nil, o)
	if err != nil {
		t.Fatal(err)
	}
	at := func(destination, source string) MountPoint {
		return MountPoint{Type: MountBind, Destination: destination, Source: source}
	}
	own, added, err := Inherit(list, o, []MountPoint{at("/explicit", "/1"), at("/anonymous", "/2"), at("/new", "/3"), at("/new", "/4")})
	if err != nil {
		t.Fatal(err)
	}
	names := func(list []MountPoint) (out []string) {
		for _, m := range list {
			out = append(out, m.Destination+"="+m.Source)
		}
		return out
	}
	if got := names(own); !slices.Equal(got, []string{"/explicit=/src", "/kept="}) {
		t.Errorf("of its own stays %q", got)
	}
	if got := names(added); !slices.Equal(got, []string{"/anonymous=/2", "/new=/3"}) {
		t.Errorf("added is %q", got)
	}
	if own, added, err = Inherit(list, o, nil); err != nil || len(own) != len(list) || added != nil {
		t.Errorf("without others: %v, %v, %v", own, added, err)
	}
}
