package plan

import "slices"

// MountOptionNames lists the mount options that are understood, sorted: those
// that are not passed to the file system.
func MountOptionNames() []string {
	names := []string{"bind", "rbind", "defaults", "async", "nomand", "nolazytime", "loud", "silent", "iversion", "noiversion", "nodirsync", "tmpcopyup", "idmap", "ridmap"}
	for name := range superFlags {
		names = append(names, name)
	}
	for name := range attrs {
		names = append(names, name, "r"+name)
	}
	for name := range propagations {
		names = append(names, name, "r"+name)
	}
	slices.Sort(names)
	return names
}

// NamespaceNames lists the types of namespaces, sorted.
func NamespaceNames() []string {
	var names []string
	for _, t := range nsTypes {
		names = append(names, string(t.name))
	}
	slices.Sort(names)
	return names
}
