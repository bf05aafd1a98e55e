package main

import (
	"os"
	"regexp"
	"testing"
)

// The linker says nothing when -X names a variable that is not there, and the
// version is lost.
func TestVersionNamesOfTheBuild(t *testing.T) {
	run, err := os.ReadFile("../../run")
	if err != nil {
		t.Fatal(err)
	}
	at := map[string]string{"main.commit": "../viv-oci/cli.go", "vivarium/engine.version": "../../engine/system.go"}
	for _, m := range regexp.MustCompile(`-X (\S+?)=\$v\b`).FindAllStringSubmatch(string(run), -1) {
		src, err := os.ReadFile(at[m[1]])
		if err != nil {
			t.Fatalf("./run sets %q, and this test does not know where that is: %v", m[1], err)
		}
		if !regexp.MustCompile(`(?m)^var (version|commit) = "`).Match(src) {
			t.Errorf("./run sets %s, which %s does not declare", m[1], at[m[1]])
		}
		delete(at, m[1])
	}
	if len(at) > 0 {
		t.Errorf("./run does not set %v", at)
	}
}
