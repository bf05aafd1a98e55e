package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"vivarium/engine"
)

func newLogin(a *app) *cobra.Command {
	var o engine.LoginOptions
	var fromStdin bool
	c := &cobra.Command{Use: "login [OPTIONS] [SERVER]", Short: "Log in to a registry (Docker Hub without SERVER)", Args: rangeArgs(0, 1)}
	fs := c.Flags()
	fs.StringVarP(&o.Username, "username", "u", "", "user name")
	fs.StringVarP(&o.Password, "password", "p", "", "password or access token")
	fs.BoolVar(&fromStdin, "password-stdin", false, "take the password from standard input")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		o.Server = strings.Join(args, "")
		e, err := a.engine()
		if err != nil {
			return err
		}
		if err := a.askCredentials(e, &o, fs.Changed("password"), fromStdin); err != nil {
			return err
		}
		stored, err := e.Login(cmd.Context(), o)
		if err != nil {
			return err
		}
		if stored.Helper == "" {
			fmt.Fprintf(a.err, "WARNING! Your credentials are stored unencrypted in '%s': a credential helper would keep them safe\n", stored.File)
		}
		fmt.Fprintln(a.out, "Login Succeeded")
		return nil
	}
	return c
}

// askCredentials completes user name and password: from standard input, from what is
// kept already, or by asking at the terminal.
func (a *app) askCredentials(e *engine.Engine, o *engine.LoginOptions, given, fromStdin bool) error {
	switch {
	case given && fromStdin:
		return errors.New("--password and --password-stdin are mutually exclusive")
	case fromStdin && o.Username == "":
		return errors.New("must provide --username with --password-stdin")
	case fromStdin:
		b, err := io.ReadAll(io.LimitReader(a.in, 1<<20))
		if err != nil {
			return fmt.Errorf("read the password: %w", err)
		}
		if o.Password = strings.TrimRight(string(b), "\r\n"); o.Password == "" {
			return errors.New("password is empty")
		}
		return nil
	case given:
		fmt.Fprintln(a.err, "WARNING! Using --password via the CLI is insecure. Use --password-stdin.")
	}
	if o.Username == "" && o.Password == "" {
		username, password, err := e.Credentials(o.Server)
		if err != nil {
			return err
		}
		if username != "" && password != "" {
			fmt.Fprintln(a.out, "Authenticating with existing credentials...")
			o.Username, o.Password = username, password
			return nil
		}
	}
	return a.promptCredentials(o)
}

func (a *app) promptCredentials(o *engine.LoginOptions) error {
	if o.Username != "" && o.Password != "" {
		return nil
	}
	if !term.IsTerminal(int(a.in.Fd())) {
		return errors.New("cannot perform an interactive login from a non TTY device: use --username and --password-stdin")
	}
	if o.Username == "" {
		fmt.Fprint(a.out, "Username: ")
		line, err := bufio.NewReader(io.LimitReader(a.in, 4096)).ReadString('\n')
		if err != nil {
			return fmt.Errorf("read the user name: %w", err)
		}
		if o.Username = strings.TrimSpace(line); o.Username == "" {
			return errors.New("username is empty")
		}
	}
	if o.Password == "" {
		var err error
		if o.Password, err = a.askPassword(); err != nil {
			return fmt.Errorf("read the password: %w", err)
		}
		if o.Password == "" {
			return errors.New("password is empty")
		}
	}
	return nil
}

// askPassword reads a line that the terminal does not show. The echo is off before
// the question is there: who is quick, or a program, types right after it.
func (a *app) askPassword() (string, error) {
	fd := int(a.in.Fd())
	old, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return "", err
	}
	quiet := *old
	quiet.Lflag &^= unix.ECHO
	quiet.Lflag |= unix.ECHONL | unix.ICANON | unix.ISIG
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, &quiet); err != nil {
		return "", err
	}
	defer unix.IoctlSetTermios(fd, unix.TCSETS, old)
	fmt.Fprint(a.out, "Password: ")
	line, err := bufio.NewReader(io.LimitReader(a.in, 1<<16)).ReadString('\n')
	if err == io.EOF && line != "" {
		err = nil
	}
	return strings.TrimRight(line, "\r\n"), err
}

func newLogout(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "logout [SERVER]", Short: "Log out from a registry (Docker Hub without SERVER)", Args: rangeArgs(0, 1),
		RunE: func(_ *cobra.Command, args []string) error {
			e, err := a.engine()
			if err != nil {
				return err
			}
			server := strings.Join(args, "")
			was, err := e.Logout(server)
			if err != nil {
				return err
			}
			if server == "" {
				server = "Docker Hub"
			}
			if was {
				fmt.Fprintln(a.out, "Removing login credentials for", server)
			} else {
				fmt.Fprintln(a.out, "Not logged in to", server)
			}
			return nil
		},
	}
}
