package control

import (
	"runtime/debug"
	"testing"
)

func TestAProgramNamesTheRevisionItIsOf(t *testing.T) {
	revision := debug.BuildSetting{Key: "vcs.revision", Value: "0123456789abcdef0123"}
	changed := debug.BuildSetting{Key: "vcs.modified", Value: "true"}
	for _, tt := range []struct {
		version  string
		settings []debug.BuildSetting
		want     string
	}{
		{"(devel)", nil, "unreleased, revision unknown, go1"},
		{"", []debug.BuildSetting{revision}, "unreleased, revision 0123456789ab, go1"},
		{"v0.0.0-20261121145451-0123456789ab+dirty", []debug.BuildSetting{revision, changed}, "unreleased, revision 0123456789ab with changes, go1"},
		{"v1.2.3", []debug.BuildSetting{revision}, "v1.2.3, revision 0123456789ab, go1"},
	} {
		info := &debug.BuildInfo{Settings: tt.settings}
		info.Main.Version = tt.version
		if got := describe(VersionInfo{Go: "go1"}, info).String(); got != tt.want {
			t.Errorf("%q: %q, want %q", tt.version, got, tt.want)
		}
	}
}
