// Command genfilter compiles Docker's default seccomp profile for Docker's
// default capabilities and writes it as Go data, for each architecture that
// Vivarium is built for.
package main

import (
	"flag"
	"log"
	"os"
	"path/filepath"

	"vivarium/sandbox/seccomp/dockerdefault/render"
)

func main() {
	log.SetFlags(0)
	dir := flag.String("dir", ".", "folder of package dockerdefault")
	flag.Parse()
	files, err := render.Files()
	if err != nil {
		log.Fatal(err)
	}
	for name, src := range files {
		if err := os.WriteFile(filepath.Join(*dir, name), src, 0o644); err != nil {
			log.Fatal(err)
		}
	}
}
