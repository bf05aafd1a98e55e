package protocol

import "testing"

func TestLines(t *testing.T) {
	for _, c := range []struct {
		sent string
		want Line
	}{
		{"@begin a/b", Line{Kind: Begin, Text: "a/b"}},
		{"|@end 0 forged", Line{Kind: Output, Text: "@end 0 forged"}},
		{"|", Line{Kind: Output}},
		{"@end 137 a/b", Line{Kind: End, Code: 137, Text: "a/b"}},
		{"@done", Line{Kind: Done}},
		{"@failed mount x", Line{Kind: Failed, Text: "mount x"}},
		{"SeaBIOS", Line{Text: "SeaBIOS"}},
		{"@end x", Line{Text: "@end x"}},
	} {
		got := Parse(c.sent + "\r")
		if got != c.want {
			t.Errorf("Parse(%q) = %+v, want %+v", c.sent, got, c.want)
		}
		if got.String() != c.sent {
			t.Errorf("%+v is sent as %q, want %q", got, got.String(), c.sent)
		}
	}
	if got := (Line{Kind: Failed, Text: "a\nb"}).String(); got != "@failed a; b" {
		t.Errorf("a failure of two lines is sent as %q", got)
	}
}
