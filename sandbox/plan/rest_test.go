package plan

import "testing"

func TestParseList(t *testing.T) {
	for list, want := range map[string]string{"": "", "0": "0x1", "0-3,7": "0x8f", "1, 3": "0xa", "63": "0x8000000000000000"} {
		if got := AffinityMask(list); got != want {
			t.Errorf("%q: %s, want %s", list, got, want)
		}
	}
	if m, err := parseList("64-65"); err != nil || len(m) != 16 || m[8] != 3 {
		t.Errorf("64-65: %v, %v", m, err)
	}
	for _, bad := range []string{"x", "3-1", "0-9876543210", "-1", "99999", "1-"} {
		if m, err := parseList(bad); err == nil {
			t.Errorf("%q: %v", bad, m)
		}
	}
}
