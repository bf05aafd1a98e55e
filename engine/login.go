package engine

import (
	"context"

	"vivarium/image/registry"
)

// LoginOptions are user name and password for a registry; Server "" is Docker Hub.
type LoginOptions struct{ Server, Username, Password string }

// Login checks credentials with the registry and keeps them for pulls, where
// docker login keeps them: the two share them.
func (e *Engine) Login(ctx context.Context, opt LoginOptions) (registry.Stored, error) {
	return registry.Login(ctx, opt.Server, opt.Username, opt.Password, registry.Limits{})
}

// Credentials gives what is kept for a registry, empty for nothing.
func (e *Engine) Credentials(server string) (username, password string, err error) {
	return registry.Credentials(server)
}

// Logout forgets the credentials of a registry, and tells whether there were any.
func (e *Engine) Logout(server string) (bool, error) { return registry.Logout(server) }
