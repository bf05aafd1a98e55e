package protocol

// PowerExpect is where the program test/vm/power finds what images there should be.
const PowerExpect = "/expect.json"

// What a line of that program is about.
const (
	PowerReady = "ready" // the store was looked at, and work begins
	PowerBegin = "begin" // the image Name becomes ID from now on, at any time
	PowerDone  = "done"  // it has
	PowerBad   = "bad"   // something is not as it should be: Text
)

// PowerAny stands for an ID that is not known before.
const PowerAny = "any"

// PowerLine is one line.
type PowerLine struct {
	Op   string
	Name string `json:",omitempty"`
	ID   string `json:",omitempty"` // empty: the name goes
	Text string `json:",omitempty"`
}

// PowerImage is what is known of a name.
type PowerImage struct {
	ID      string // what was reported done; empty: there is none
	Becomes string // while it is being changed
	Changes bool
}

// MayBe tells whether it may be this after a power cut.
func (i PowerImage) MayBe(id string) bool {
	if id == i.ID {
		return true
	}
	return i.Changes && (id == i.Becomes || id != "" && i.Becomes == PowerAny)
}

func (i PowerImage) String() string {
	text := i.ID
	if text == "" {
		text = "absent"
	}
	if i.Changes && i.Becomes == "" {
		return text + ", or absent"
	}
	if i.Changes {
		return text + ", or new"
	}
	return text
}

// After is what is known of it after a line.
func (i PowerImage) After(l PowerLine) PowerImage {
	switch l.Op {
	case PowerBegin:
		i.Becomes, i.Changes = l.ID, true
	case PowerDone:
		i = PowerImage{ID: l.ID}
	}
	return i
}
