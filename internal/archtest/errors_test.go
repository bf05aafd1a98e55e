package archtest

import (
	"go/scanner"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// othersWords are errors of the kernel and of the library that reads passwd files:
// they stand in no source of ours.
var othersWords = map[string]bool{
	": no such file or directory": true, ": permission denied": true, ": exec format error": true, "operation not permitted": true,
	"unable to find user": true, ": no matching entries in passwd file": true,
}

// TestMessagesOfErrorsPage: what docs/ERRORS.md quotes in the first column of its
// tables of messages is what the code says. "…" is what differs.
func TestMessagesOfErrorsPage(t *testing.T) {
	page, err := os.ReadFile("../../docs/ERRORS.md")
	if err != nil {
		t.Fatal(err)
	}
	_, tables, found := strings.Cut(string(page), "\n## Messages\n")
	if !found {
		t.Fatal("docs/ERRORS.md has no section of messages")
	}
	literals := strings.Join(sourceStrings(t), "\n")
	quotes := regexp.MustCompile("(?m)^\\| `([^`]+)` \\|").FindAllStringSubmatch(tables, -1)
	if len(quotes) < 20 {
		t.Fatalf("found only %d messages", len(quotes))
	}
	for _, q := range quotes {
		for part := range strings.SplitSeq(q[1], "…") {
			if part = strings.TrimRight(part, " "); part == "" || othersWords[part] {
				continue
			}
			if !strings.Contains(literals, part) {
				t.Errorf("no message of the code has %q, of %q", part, q[1])
			}
		}
	}
}

// sourceStrings gives every string literal of the programs.
func sourceStrings(t *testing.T) []string {
	t.Helper()
	var list []string
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		src, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		file := token.NewFileSet().AddFile(path, -1, len(src))
		var s scanner.Scanner
		s.Init(file, src, nil, 0)
		for {
			_, tok, lit := s.Scan()
			if tok == token.EOF {
				return nil
			}
			if tok == token.STRING {
				if text, err := strconv.Unquote(lit); err == nil {
					list = append(list, text)
				}
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}
