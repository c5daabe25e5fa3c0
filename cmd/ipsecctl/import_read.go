package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"ipsecagent/policy"
	"ipsecagent/policy/file"
	"ipsecagent/policy/gpipsec"
	"ipsecagent/policy/groups"
	"ipsecagent/policy/netsh"
)

// The formats of import, by their names.
const (
	fromLDIF   = "ldif"
	fromReg    = "reg"
	fromNetsh  = "netsh"
	fromGroups = "groups"
	fromYAML   = "yaml"
)

func importFormats() []string { return []string{fromLDIF, fromReg, fromNetsh, fromGroups, fromYAML} }

// readImport reads a file in the format given, or in the one it seems to have.
func readImport(o importOptions, path string) (*imported, error) {
	format := o.from
	if format == "" {
		var err error
		if format, err = guessFormat(path); err != nil {
			return nil, err
		}
	}
	switch format {
	case fromLDIF:
		return readObjects(path, gpipsec.ReadLDIF)
	case fromReg:
		return readObjects(path, gpipsec.ReadReg)
	case fromNetsh:
		return readNetsh(path)
	case fromGroups:
		return readGroups(o, path)
	case fromYAML:
		return readYAML(path)
	}
	return nil, usage("--from %q: the formats are %s", format, strings.Join(importFormats(), ", "))
}

// guessFormat tells the format by what is in the file, or by its name where a
// folder or a group of libreswan is meant.
func guessFormat(path string) (string, error) {
	info, err := os.Stat(path)
	if err == nil && info.IsDir() {
		return guessFolder(path), nil
	}
	data, err := readFile(path)
	if err != nil {
		return "", err
	}
	head := strings.ToLower(strings.ReplaceAll(string(data[:min(len(data), 1<<16)]), "\x00", "")) // of UTF-16 what is ASCII
	switch {
	case strings.Contains(head, "windows registry editor") || strings.Contains(head, "regedit4"):
		return fromReg, nil
	case strings.HasPrefix(head, "dn:") || strings.Contains(head, "\ndn:"):
		return fromLDIF, nil
	case strings.Contains(head, "apiversion:"):
		return fromYAML, nil
	case slices.Contains(groups.Names(), filepath.Base(path)):
		return fromGroups, nil
	case strings.Contains(head, "ipsec static") || strings.Contains(head, "add policy") || strings.Contains(head, "add filter"):
		return fromNetsh, nil
	}
	return "", usage("what %s is cannot be told by what is in it; say so: --from %s", path, strings.Join(importFormats(), "|"))
}

func guessFolder(path string) string {
	for _, name := range groups.Names() {
		if _, err := os.Stat(filepath.Join(path, name)); err == nil {
			return fromGroups
		}
	}
	return fromYAML
}

// readObjects reads the objects of Windows' own format.
func readObjects(path string, read func(io.Reader) ([]gpipsec.Object, error)) (*imported, error) {
	data, err := readFile(path)
	if err != nil {
		return nil, err
	}
	objects, err := read(bytes.NewReader(data))
	if err != nil {
		return nil, invalid("%s: %v", path, err)
	}
	r := gpipsec.Decode(objects)
	i := &imported{store: r.Store}
	for _, p := range r.Problems {
		if p.Warning {
			i.notes = append(i.notes, p.Error())
			continue
		}
		i.left = append(i.left, p.Error())
	}
	for _, s := range r.Secrets {
		i.keys = append(i.keys, importedKey{s.Name, s.Key.Bytes()})
	}
	return i, nil
}

func readNetsh(path string) (*imported, error) {
	data, err := readFile(path)
	if err != nil {
		return nil, err
	}
	r := netsh.Run(policy.Store{}, data)
	i := &imported{store: r.Store}
	for _, p := range r.Problems {
		i.left = append(i.left, path+": "+p.Error())
	}
	for _, s := range r.Secrets {
		i.keys = append(i.keys, importedKey{s.Name, s.Key.Bytes()})
	}
	return i, nil
}

func readGroups(o importOptions, path string) (*imported, error) {
	if len(o.policies) != 1 {
		return nil, usage("policy groups make one policy: name it with --policy NAME")
	}
	options := groups.Options{Name: o.policies[0]}
	for _, text := range o.auth {
		a, err := file.ParseAuthentication(text)
		if err != nil {
			return nil, usage("--auth: %v", err)
		}
		options.Authentication = append(options.Authentication, a)
	}
	files, err := groupFiles(path)
	if err != nil {
		return nil, err
	}
	p, problems := groups.Read(files, options)
	i := &imported{store: policy.Store{Policies: []policy.Policy{p}}}
	for _, problem := range problems {
		i.left = append(i.left, problem.Error())
	}
	return i, nil
}

// groupFiles reads one group, or those that a folder has.
func groupFiles(path string) (map[string][]byte, error) {
	info, err := os.Stat(path)
	paths := []string{path}
	if err == nil && info.IsDir() {
		paths = nil
		for _, name := range groups.Names() {
			if _, err := os.Stat(filepath.Join(path, name)); err == nil {
				paths = append(paths, filepath.Join(path, name))
			}
		}
	}
	if len(paths) == 0 {
		return nil, notFound("%s has none of the policy groups %s", path, strings.Join(groups.Names(), ", "))
	}
	files := map[string][]byte{}
	for _, p := range paths {
		if files[filepath.Base(p)], err = readFile(p); err != nil {
			return nil, err
		}
	}
	return files, nil
}

func readYAML(path string) (*imported, error) {
	info, err := os.Stat(path)
	if err == nil && info.IsDir() {
		f, err := openFolder(path)
		if err != nil {
			return nil, err
		}
		return &imported{store: f.Store()}, nil
	}
	d, err := file.Open(path)
	if err != nil {
		return nil, unreadable(path, err)
	}
	if d.Shared != nil {
		return &imported{store: policy.Store{FilterLists: d.Shared.FilterLists, FilterActions: d.Shared.FilterActions}}, nil
	}
	return &imported{store: policy.Store{Policies: []policy.Policy{*d.Policy}}}, nil
}

func equal[T any](a, b T) bool { return reflect.DeepEqual(a, b) }

// scriptText reads a script from a file, or from standard input for "-".
func scriptText(path string) ([]byte, error) {
	if path == "-" {
		path = "/dev/stdin"
	}
	data, err := readFile(path)
	if err == nil && len(bytes.TrimSpace(data)) == 0 {
		err = errors.New("the script is empty")
	}
	if err != nil {
		return nil, fmt.Errorf("read script: %w", err)
	}
	return data, nil
}
