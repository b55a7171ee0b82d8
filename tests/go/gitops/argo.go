package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	lua "github.com/yuin/gopher-lua"
	"github.com/yuin/gopher-lua/parse"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// longest is what Argo CD allows a script to take.
const longest = time.Second

// healths are what a script of Argo CD may say.
var healths = []string{"Healthy", "Progressing", "Degraded", "Suspended", "Missing", "Unknown"}

// argo runs a health.lua as Argo CD runs it (util/lua/lua.go): over the global obj, for at most a second, and with the base
// and table libraries alone. Argo CD also gives a script a few functions of os; ours must do without.
type argo struct {
	script *lua.FunctionProto
}

func newArgo(file string) (*argo, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	chunk, err := parse.Parse(strings.NewReader(string(text)), file)
	if err != nil {
		return nil, err
	}
	script, err := lua.Compile(chunk, file)
	if err != nil {
		return nil, err
	}
	return &argo{script}, nil
}

// health is the status that Argo CD shows. What is being deleted is Progressing whatever a script would say of it.
func (a *argo) health(object *unstructured.Unstructured) (string, error) {
	if object.GetDeletionTimestamp() != nil {
		return "Progressing", nil
	}
	state := lua.NewState(lua.Options{SkipOpenLibs: true})
	defer state.Close()
	for name, open := range map[string]lua.LGFunction{lua.BaseLibName: lua.OpenBase, lua.TabLibName: lua.OpenTable} {
		call := lua.P{Fn: state.NewFunction(open), Protect: true}
		if err := state.CallByParam(call, lua.LString(name)); err != nil {
			return "", err
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), longest)
	defer cancel()
	state.SetContext(ctx)
	state.SetGlobal("obj", toLua(state, object.Object))
	if err := state.CallByParam(lua.P{Fn: state.NewFunctionFromProto(a.script), NRet: 1, Protect: true}); err != nil {
		return "", err
	}
	said, ok := state.Get(-1).(*lua.LTable)
	if !ok {
		return "", fmt.Errorf("expected a table from the script, found %s", state.Get(-1).Type())
	}
	health := said.RawGetString("status").String()
	if !slices.Contains(healths, health) {
		return "", fmt.Errorf("expected status to be one of %v, found %q", healths, health)
	}
	if message := said.RawGetString("message"); message.Type() != lua.LTString {
		return "", fmt.Errorf("expected message to be a string, found %s", message.Type())
	}
	return health, nil
}

// toLua converts what JSON can say.
func toLua(state *lua.LState, value any) lua.LValue {
	switch value := value.(type) {
	case bool:
		return lua.LBool(value)
	case int64:
		return lua.LNumber(value)
	case float64:
		return lua.LNumber(value)
	case string:
		return lua.LString(value)
	case []any:
		table := state.CreateTable(len(value), 0)
		for _, item := range value {
			table.Append(toLua(state, item))
		}
		return table
	case map[string]any:
		table := state.CreateTable(0, len(value))
		for name, item := range value {
			table.RawSetString(name, toLua(state, item))
		}
		return table
	default:
		return lua.LNil
	}
}
