"""The DICOM node: series arrive from a scanner or an archive, and go back denoised. `service.Node` is the whole."""
