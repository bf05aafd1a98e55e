package main

import (
	"slices"
	"strings"
	"testing"
)

// TestAttached: words are spelled for pflag as getopt(3) reads them, and those of the
// command are left alone.
func TestAttached(t *testing.T) {
	for in, want := range map[string]string{
		"-t 1 -n/proc/1/ns/net ip": "-t 1 -n=/proc/1/ns/net ip",
		"-n/a -u./b -a":            "-n=/a -u=./b -a",
		"-anU/x sh":                "-anU=/x sh",
		"-r/ -w/tmp pwd":           "-r=/ -w=/tmp pwd",
		"-t/x -n":                  "-t/x -n",
		"-n sh -n/x":               "-n sh -n/x",
		"--target 1 -n/x":          "--target 1 -n=/x",
		"--net=/x -n/y":            "--net=/x -n=/y",
		"-n -- sh -n/x":            "-n -- sh -n/x",
		"-n=/x sh":                 "-n=/x sh",
		"-q/x -n/y":                "-q/x -n=/y",
		"-S 5 -n/x":                "-S 5 -n=/x",
		"-":                        "-",
		"":                         "",
	} {
		got := attached(strings.Fields(in), newNsEnter(&app{}).Flags())
		if !slices.Equal(got, strings.Fields(want)) {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

// FuzzAttached: nothing but = is put in, and nothing is lost.
func FuzzAttached(f *testing.F) {
	for _, seed := range []string{"-t 1 -n/x sh", "-n -- /x", "-nU/x\x00-", "--=/x -/"} {
		f.Add(seed)
	}
	flags := newNsEnter(&app{}).Flags()
	f.Fuzz(func(t *testing.T, line string) {
		words := strings.Split(line, " ")
		got := attached(words, flags)
		if len(got) != len(words) {
			t.Fatalf("%q: %q", words, got)
		}
		for i := range words {
			if got[i] != words[i] && strings.Replace(got[i], "=", "", 1) != words[i] {
				t.Errorf("%q: %q", words[i], got[i])
			}
		}
	})
}

// FuzzIDMaps: what is read is a map, or an error.
func FuzzIDMaps(f *testing.F) {
	for _, seed := range []string{"0:1000:5", "1000,0,5", "1:2", "-1:0:1", "0:0:99999999999999999999", "1,2,3,4"} {
		f.Add(seed)
	}
	m := &idMaps{}
	f.Fuzz(func(t *testing.T, word string) {
		if word == "all" || word == "auto" || word == "subids" {
			return
		}
		list, err := m.readRange(word)
		if err == nil && (len(list) != 1 || list[0].Inside < 0 || list[0].Outside < 0 || list[0].Count < 1) {
			t.Errorf("%q: %v", word, list)
		}
	})
}
