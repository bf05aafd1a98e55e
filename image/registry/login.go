package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/docker/cli/cli/config"
	"github.com/docker/cli/cli/config/configfile"
	"github.com/docker/cli/cli/config/credentials"
	"github.com/docker/cli/cli/config/types"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"vivarium/image"
)

// hubKey is under which name Docker keeps credentials of Docker Hub.
const hubKey = authn.DefaultAuthKey

// serverKey gives the name under which Docker keeps a registry's credentials, and
// the registry's host. server may be "", for Docker Hub, a host, or a URL.
func serverKey(server string) (key, host string, err error) {
	host = credentials.ConvertToHostname(strings.TrimSuffix(server, "/"))
	switch host {
	case "", "docker.io", "index.docker.io", "registry-1.docker.io", "registry.hub.docker.com":
		return hubKey, "docker.io", nil
	}
	if _, err := name.NewRegistry(host); err != nil || strings.ContainsAny(host, "/ ") {
		return "", "", fmt.Errorf("registry name %q: it must be HOST or HOST:PORT", server)
	}
	return host, host, nil
}

// Stored says where credentials were put: by a credential helper, or as they are in
// a file.
type Stored struct {
	Helper string // the helper's name, "" for none
	File   string // Docker's configuration, which has them if there is no helper
}

// Credentials gives the user name and password that are kept for a registry, empty
// for none, as docker login keeps them (~/.docker/config.json, or the directory of
// DOCKER_CONFIG, and credential helpers).
func Credentials(server string) (username, password string, err error) {
	key, host, err := serverKey(server)
	if err != nil {
		return "", "", err
	}
	cf, err := loadConfig()
	if err != nil {
		return "", "", err
	}
	a, err := cf.GetCredentialsStore(key).Get(key)
	if err != nil {
		return "", "", fmt.Errorf("read credentials for %s: %w", host, err)
	}
	return a.Username, a.Password, nil
}

// Login asks the registry whether it takes user name and password, and keeps them
// where docker login does. ErrDenied: it does not.
func Login(ctx context.Context, server, username, password string, limits Limits) (Stored, error) {
	key, host, err := serverKey(server)
	if err != nil {
		return Stored{}, err
	}
	cf, err := loadConfig() // before the password travels
	if err != nil {
		return Stored{}, err
	}
	if err := tryLogin(ctx, host, username, password, limits); err != nil {
		return Stored{}, fmt.Errorf("log in to %s: %w", host, err)
	}
	auth := types.AuthConfig{Username: username, Password: password, ServerAddress: key}
	stored := Stored{Helper: helperOf(cf, key), File: cf.GetFilename()}
	if stored.Helper != "" {
		err = cf.GetCredentialsStore(key).Store(auth)
	} else { // not by the library's store, which prints
		cf.GetAuthConfigs()[key] = auth
		err = cf.Save()
	}
	if err != nil {
		return Stored{}, fmt.Errorf("keep the credentials for %s: %w", host, err)
	}
	return stored, nil
}

// Logout forgets the credentials of a registry, and tells whether there were any.
func Logout(server string) (bool, error) {
	key, host, err := serverKey(server)
	if err != nil {
		return false, err
	}
	cf, err := loadConfig()
	if err != nil {
		return false, err
	}
	store := cf.GetCredentialsStore(key)
	a, err := store.Get(key)
	if err != nil {
		return false, fmt.Errorf("read credentials for %s: %w", host, err)
	}
	if a == (types.AuthConfig{}) || a.Username == "" && a.Password == "" && a.Auth == "" && a.IdentityToken == "" && a.RegistryToken == "" {
		return false, nil
	}
	if err := store.Erase(key); err != nil {
		return false, fmt.Errorf("forget the credentials for %s: %w", host, err)
	}
	return true, nil
}

// loadConfig reads Docker's configuration. One that cannot be read is an error: to
// keep something in it would overwrite it.
func loadConfig() (*configfile.ConfigFile, error) {
	cf, err := config.Load(config.Dir())
	if err != nil {
		return nil, fmt.Errorf("read Docker's configuration: %w", err)
	}
	if !cf.ContainsAuth() {
		cf.CredentialsStore = credentials.DetectDefaultStore(cf.CredentialsStore)
	}
	return cf, nil
}

func helperOf(cf *configfile.ConfigFile, key string) string {
	if h := cf.CredentialHelpers[key]; h != "" {
		return h
	}
	return cf.CredentialsStore
}

// tryLogin asks for the registry's root with the credentials.
func tryLogin(ctx context.Context, host, username, password string, limits Limits) error {
	c := &client{ref: image.Reference{Domain: host}, limits: limits.withDefaults()}
	regName := host
	if host == "docker.io" {
		regName = name.DefaultRegistry
	}
	var err error
	if c.reg, err = name.NewRegistry(regName); err != nil {
		return err
	}
	c.base = newTransport(c.limits, false)
	defer c.close()
	inner := &retrying{inner: &guard{c.base, isLoopback(host)}, limits: c.limits}
	rt, err := transport.NewWithContext(ctx, c.reg, &authn.Basic{Username: username, Password: password}, inner, nil)
	if err != nil {
		return c.explainLogin(err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+c.reg.RegistryStr()+"/v2/", nil)
	if err != nil {
		return err
	}
	resp, err := (&http.Client{Transport: rt}).Do(req)
	if err != nil {
		return c.explainLogin(err)
	}
	defer resp.Body.Close()
	_, _ = io.CopyN(io.Discard, resp.Body, 64<<10)
	if err := transport.CheckError(resp, http.StatusOK); err != nil {
		return c.explainLogin(err)
	}
	return nil
}

func (c *client) explainLogin(err error) error {
	var te *transport.Error
	if errors.As(err, &te) && (te.StatusCode == http.StatusUnauthorized || te.StatusCode == http.StatusForbidden) {
		return fmt.Errorf("%w: incorrect username or password (%d %s)", ErrDenied, te.StatusCode, http.StatusText(te.StatusCode))
	}
	return c.explain("connect", err)
}
