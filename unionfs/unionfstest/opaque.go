package unionfstest

import "vivarium/internal/kernel"

// opaqueAttr marks a directory of a lower layer as opaque: root of a user namespace has no
// other.
func opaqueAttr() string {
	if kernel.InUserNamespace() {
		return "user.overlay.opaque"
	}
	return "trusted.overlay.opaque"
}
