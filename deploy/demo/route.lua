-- Send every CT series to the node once nothing of it has arrived for some seconds. What the node
-- sends back is no CT, or carries its name as the model: it would know its own results again, and
-- need not be asked.
function OnStableSeries(seriesId, tags, metadata)
   if tags["Modality"] ~= "CT" or tags["ManufacturerModelName"] == "m3lung-node" then
      return
   end
   SendToModality(seriesId, "m3lung")
end
