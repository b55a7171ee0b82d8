// Command gitops-checker says how the tools that deploy manifests read an object of this API: kstatus (Helm, kpt, kubectl
// plugins), Flux with the shipped expressions, and Argo CD with the shipped script. It talks: objects come on stdin and
// verdicts go to stdout, as JSON lines. What cannot be read or judged ends it with an error.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/cli-utils/pkg/kstatus/status"
)

// question is a line of stdin: an object as the API server serves it.
type question struct {
	Object unstructured.Unstructured `json:"object"`
}

// verdict is a line of stdout, in the words of each tool.
type verdict struct {
	Kstatus string `json:"kstatus"`
	Flux    string `json:"flux"`
	Argo    string `json:"argo"`
}

func main() {
	kustomization := flag.String("flux", "", "a Kustomization of Flux with healthCheckExprs")
	script := flag.String("argo", "", "a health.lua of Argo CD")
	flag.Parse()
	if err := run(*kustomization, *script, os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "gitops-checker:", err)
		os.Exit(1)
	}
}

func run(kustomization, script string, questions io.Reader, verdicts io.Writer) error {
	flux, err := newFlux(kustomization)
	if err != nil {
		return fmt.Errorf("%s: %w", kustomization, err)
	}
	argo, err := newArgo(script)
	if err != nil {
		return err
	}
	out := bufio.NewWriter(verdicts)
	in, answers := json.NewDecoder(questions), json.NewEncoder(out)
	for number := 1; ; number++ {
		var asked question
		if err := in.Decode(&asked); errors.Is(err, io.EOF) {
			return out.Flush()
		} else if err != nil {
			return fmt.Errorf("object %d: %w", number, err)
		}
		judged, err := judge(&asked.Object, flux, argo)
		if err != nil {
			return fmt.Errorf("object %d, %s/%s: %w", number, asked.Object.GetKind(), asked.Object.GetName(), err)
		}
		if err := answers.Encode(judged); err != nil {
			return err
		}
	}
}

func judge(object *unstructured.Unstructured, flux *flux, argo *argo) (*verdict, error) {
	plain, err := status.Compute(object)
	if err != nil {
		return nil, fmt.Errorf("kstatus: %w", err)
	}
	evaluated, err := flux.evaluate(context.Background(), object)
	if err != nil {
		return nil, fmt.Errorf("Flux: %w", err)
	}
	health, err := argo.health(object)
	if err != nil {
		return nil, fmt.Errorf("Argo CD: %w", err)
	}
	return &verdict{Kstatus: plain.Status.String(), Flux: evaluated, Argo: health}, nil
}
