package main

import (
	"errors"
	"strconv"
	"strings"
)

// option is one flag of a command; exactly one of the pointers is set.
type option struct {
	name, short string
	help        string
	yes         *bool
	text        *string
	number      *int
	list        *[]string
	set         func(string) error
}

func flag(name, short string, v *bool, help string) option {
	return option{name: name, short: short, yes: v, help: help}
}

func text(name, short string, v *string, help string) option {
	return option{name: name, short: short, text: v, help: help}
}

func number(name string, v *int, help string) option {
	return option{name: name, number: v, help: help}
}

func list(name, short string, v *[]string, help string) option {
	return option{name: name, short: short, list: v, help: help}
}

// errHelp says that help was asked for.
var errHelp = errors.New("help")

// usageError is a command line that cannot be understood.
type usageError struct{ msg string }

func (e *usageError) Error() string { return e.msg }

// parse takes the flags off a command line, in the forms that runc takes: -x,
// --x, --x=v, --x v, one dash or two. Flags may stand behind other arguments,
// up to "--", unless strict is set: then the first other argument ends them, as
// for exec, whose arguments are a command line of their own.
func parse(args []string, options []option, strict bool) (rest []string, err error) {
	for i := 0; i < len(args); i++ {
		a := args[i]
		if a == "--" {
			return append(rest, args[i+1:]...), nil
		}
		if len(a) < 2 || a[0] != '-' {
			if strict {
				return append(rest, args[i:]...), nil
			}
			rest = append(rest, a)
			continue
		}
		used, err := one(strings.TrimPrefix(a[1:], "-"), args[i+1:], options)
		if err != nil {
			return nil, err
		}
		i += used
	}
	return rest, nil
}

// one takes one flag, without its dashes; used is how many of the arguments
// behind it are its value.
func one(a string, behind []string, options []option) (used int, err error) {
	name, value, has := strings.Cut(a, "=")
	if name == "help" || name == "h" {
		return 0, errHelp
	}
	for i := range options {
		o := &options[i]
		if name != o.name && (o.short == "" || name != o.short) {
			continue
		}
		if o.yes != nil {
			*o.yes = true
			if has {
				if *o.yes, err = strconv.ParseBool(value); err != nil {
					return 0, &usageError{"invalid boolean value " + strconv.Quote(value) + " for -" + name}
				}
			}
			return 0, nil
		}
		if !has {
			if len(behind) == 0 {
				return 0, &usageError{"flag needs an argument: -" + name}
			}
			value, used = behind[0], 1
		}
		if err := o.assign(value); err != nil {
			return 0, &usageError{"invalid value " + strconv.Quote(value) + " for flag -" + name + ": " + err.Error()}
		}
		return used, nil
	}
	return 0, &usageError{"flag provided but not defined: -" + name}
}

func (o *option) assign(value string) error {
	switch {
	case o.text != nil:
		*o.text = value
	case o.number != nil:
		n, err := strconv.Atoi(value)
		if err != nil {
			return errors.New("parse error")
		}
		*o.number = n
	case o.list != nil:
		*o.list = append(*o.list, value)
	default:
		return o.set(value)
	}
	return nil
}

// usage is the text of a command's help.
func (c *command) usage() string {
	var b strings.Builder
	b.WriteString("NAME:\n   " + program + " " + c.name + " - " + c.about + "\n\nUSAGE:\n   " + program + " " + c.name + " [command options] " + c.args + "\n")
	writeOptions(&b, "\nOPTIONS:\n", c.options)
	return b.String()
}

func writeOptions(b *strings.Builder, title string, options []option) {
	if len(options) == 0 {
		return
	}
	b.WriteString(title)
	for i := range options {
		o := &options[i]
		value := " value"
		if o.yes != nil {
			value = ""
		}
		left := "--" + o.name + value
		if o.short != "" {
			left += ", -" + o.short + value
		}
		b.WriteString("   " + left + strings.Repeat(" ", max(1, 36-len(left))) + o.help + "\n")
	}
}
