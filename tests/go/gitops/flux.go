package main

import (
	"context"
	"fmt"
	"os"

	kustomize "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/fluxcd/pkg/runtime/cel"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"
)

// flux evaluates the healthCheckExprs of a Kustomization, as its kustomize-controller does.
type flux struct {
	evaluators map[schema.GroupKind]*cel.StatusEvaluator
}

// newFlux reads a Kustomization; fields that Flux does not know are refused.
func newFlux(file string) (*flux, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var kustomization kustomize.Kustomization
	if err := yaml.UnmarshalStrict(text, &kustomization); err != nil {
		return nil, err
	}
	evaluators := map[schema.GroupKind]*cel.StatusEvaluator{}
	for i, check := range kustomization.Spec.HealthCheckExprs {
		evaluator, err := cel.NewStatusEvaluator(&check.HealthCheckExpressions)
		if err != nil {
			return nil, fmt.Errorf("spec.healthCheckExprs[%d]: %w", i, err)
		}
		evaluators[schema.FromAPIVersionAndKind(check.APIVersion, check.Kind).GroupKind()] = evaluator
	}
	return &flux{evaluators}, nil
}

func (f *flux) evaluate(ctx context.Context, object *unstructured.Unstructured) (string, error) {
	kind := object.GroupVersionKind().GroupKind()
	evaluator, ok := f.evaluators[kind]
	if !ok {
		return "", fmt.Errorf("the Kustomization has no healthCheckExprs for %s", kind)
	}
	result, err := evaluator.Evaluate(ctx, object)
	if err != nil {
		return "", err
	}
	return result.Status.String(), nil
}
