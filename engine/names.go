package engine

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Words of names that nobody chose: what lives in a vivarium, and how.
var (
	adjectives = [...]string{
		"agile", "amber", "arboreal", "basking", "bold", "brisk", "calm", "climbing", "coral",
		"crested", "curious", "dappled", "dewy", "dreamy", "drifting", "eager", "emerald", "fern",
		"fleet", "floating", "frosty", "gentle", "gilded", "glassy", "gliding", "golden", "hardy",
		"hidden", "humming", "jade", "jolly", "keen", "lively", "lucid", "lush", "mellow", "merry",
		"mossy", "nimble", "noble", "patient", "peaceful", "pebbled", "placid", "quiet", "quick",
		"rustling", "scarlet", "serene", "shady", "silent", "sleepy", "speckled", "spry", "striped",
		"sunny", "swift", "tidy", "tranquil", "velvet", "vivid", "watchful", "wild", "witty",
	}
	nouns = [...]string{
		"agama", "anole", "axolotl", "basilisk", "beetle", "bromeliad", "caiman", "cactus",
		"chameleon", "cicada", "cricket", "cycad", "dragonfly", "earthworm", "fern", "finch",
		"firefly", "frog", "gecko", "guppy", "heron", "iguana", "isopod", "katydid", "killifish",
		"lichen", "lizard", "loach", "mantis", "millipede", "minnow", "monstera", "moss", "moth",
		"mudskipper", "newt", "orchid", "otter", "pitcher", "python", "quail", "ramshorn",
		"salamander", "scorpion", "shrimp", "skink", "snail", "springtail", "stickleback",
		"succulent", "sundew", "tadpole", "terrapin", "tetra", "toad", "tortoise", "turtle",
		"tuatara", "varan", "viper", "wasp", "weevil", "willow", "wrasse",
	}
)

// randomName gives adjective_noun, with digits after several attempts.
func randomName(attempt int) string {
	name := adjectives[rand.IntN(len(adjectives))] + "_" + nouns[rand.IntN(len(nouns))]
	if attempt > 3 {
		name += strconv.Itoa(rand.IntN(10000))
	}
	return name
}

// checkName refuses what Docker refuses as a container's (or volume's) name.
func checkName(name string) error {
	ok := len(name) > 1 && len(name) <= 255 && isAlnum(name[0])
	for i := 1; ok && i < len(name); i++ {
		c := name[i]
		ok = isAlnum(c) || c == '_' || c == '.' || c == '-'
	}
	if !ok {
		return errorf(ErrInvalid, "Invalid container name (%s), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed", name)
	}
	return nil
}

func isAlnum(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}

// reserveName gives the container in flight the name, or a random one for "". A
// name is a symbolic link to the container's ID: making it is atomic and needs no
// lock. The marker has the name first, so that a sweep can release it.
func (e *Engine) reserveName(name string, fl *flight) (string, error) {
	name = strings.TrimPrefix(name, "/")
	if name != "" {
		if err := checkName(name); err != nil {
			return "", err
		}
		if err := fl.setName(name); err != nil {
			return "", err
		}
		return name, e.linkName(name, fl.id)
	}
	for attempt := 0; attempt < 100; attempt++ {
		name = randomName(attempt)
		if err := fl.setName(name); err != nil {
			return "", err
		}
		err := e.linkName(name, fl.id)
		if err == nil || !errors.Is(err, ErrNameInUse) {
			return name, err
		}
	}
	return "", errorf(ErrNameInUse, "no free random name found in 100 attempts: use --name")
}

func (e *Engine) linkName(name, id string) error {
	err := os.Symlink(id, e.nameLink(name))
	if err == nil {
		return nil
	}
	if !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("reserve the name %q: %w", name, err)
	}
	holder, err := os.Readlink(e.nameLink(name))
	if err == nil && e.holdsName(holder) {
		return nameInUse(name, holder)
	}
	return e.stealName(name, id)
}

// holdsName tells whether a container is there, or is being made at this moment.
func (e *Engine) holdsName(id string) bool {
	return unix.Access(e.containerDir(id), unix.F_OK) == nil || e.inFlight(id)
}

// stealName takes a name whose container is gone. Of several that try, the
// directory's lock lets one at a time look again and replace the link.
func (e *Engine) stealName(name, id string) error {
	dir, err := lockFile(filepath.Join(e.Root, "names"))
	if err != nil {
		return fmt.Errorf("lock the names: %w", err)
	}
	defer dir.Close()
	holder, err := os.Readlink(e.nameLink(name))
	if err == nil {
		if e.holdsName(holder) {
			return nameInUse(name, holder)
		}
		if err := os.Remove(e.nameLink(name)); err != nil {
			return fmt.Errorf("free the name %q: %w", name, err)
		}
	}
	if err := os.Symlink(id, e.nameLink(name)); err != nil {
		if errors.Is(err, os.ErrExist) {
			holder, _ := os.Readlink(e.nameLink(name))
			return nameInUse(name, holder)
		}
		return fmt.Errorf("reserve the name %q: %w", name, err)
	}
	return nil
}

// releaseName removes the name if it is id's. A name that was given away is left.
func (e *Engine) releaseName(name, id string) error {
	if name == "" || checkName(name) != nil {
		return nil
	}
	if holder, err := os.Readlink(e.nameLink(name)); err != nil || holder != id {
		return nil
	}
	if err := os.Remove(e.nameLink(name)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("release the name %q: %w", name, err)
	}
	return nil
}
