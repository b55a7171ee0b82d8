-- How Argo CD reads a PreferenceDataset, RewardModel or PolicyTuning. A condition counts where it speaks of the spec as it is
-- now; whatever else happens, the resource is Progressing.
local generation = obj.metadata.generation
local status = obj.status or {}
local now = {}
if status.observedGeneration == generation then
  for _, condition in ipairs(status.conditions or {}) do
    if condition.observedGeneration == generation then
      now[condition.type] = condition
    end
  end
end

local function is_true(kind)
  return now[kind] ~= nil and now[kind].status == "True"
end

local ready = now["Ready"] or {reason = "Pending", message = "the operator has not seen this spec yet"}
local health = "Progressing"
if ready.reason == "Suspended" then
  health = "Suspended"
elseif is_true("Reconciling") then
  health = "Progressing"
elseif is_true("Stalled") then
  health = "Degraded"
elseif is_true("Ready") then
  health = "Healthy"
end
return {status = health, message = ready.reason .. ": " .. (ready.message or "")}
