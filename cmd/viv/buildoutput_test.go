package main

import (
	"reflect"
	"strings"
	"testing"

	"vivarium/engine"
)

func TestOutputOf(t *testing.T) {
	for text, want := range map[string]engine.BuildOutput{
		"-":                                     {Type: "tar"},
		"out/dir":                               {Type: "local", Dest: "out/dir"},
		"type=local,dest=out":                   {Type: "local", Dest: "out"},
		"type=tar,dest=-":                       {Type: "tar"},
		"type=oci,dest=a.tar":                   {Type: "oci", Dest: "a.tar"},
		"type=docker":                           {Type: "image"},
		"type=docker,dest=-":                    {Type: "docker"},
		"type=registry":                         {Type: "registry"},
		"type=image,push=true,name=a:1":         {Type: "image", Push: true, Names: []string{"a:1"}},
		`type=image,"name=a:1,b",push=false`:    {Type: "image", Names: []string{"a:1", "b"}},
		"type=registry,registry.insecure=true":  {Type: "registry", Insecure: true},
		`"type=local","dest=a directory, here"`: {Type: "local", Dest: "a directory, here"},
	} {
		got, err := outputOf(text)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %+v (%v), want %+v", text, got, err, want)
		}
	}
	for text, word := range map[string]string{
		"dest=x":                      "type is required",
		"type=local":                  "dest is required",
		"type=image,dest=x":           "has no dest",
		"type=registry,dest=-":        "has no dest",
		"type=tar,push=true":          "only an image",
		"type=image,push=maybe":       "true or false",
		"type=local,dest=x,name=a":    "no name",
		"type=image,compression=zstd": "compression",
		"type=image,push":             "key=value",
		`type=image,"name=a`:          "quote",
	} {
		if got, err := outputOf(text); err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("%s: got %+v and the error %v, want one with %q", text, got, err, word)
		}
	}
}
